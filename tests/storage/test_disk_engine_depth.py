"""The number of requests in flight follows the source's latency."""

import time
from pathlib import Path

import pytest

from services.disk_agent.engine.depth import depth_for
from services.disk_agent.engine.endpoint import Endpoint, Side
from tests.disk_transfer_rig import Rig, serving


class _Clock:
    """Each look at it is that much later."""

    def __init__(self, step_seconds: float) -> None:
        self._now, self._step = 0.0, step_seconds

    def __call__(self) -> float:
        self._now += self._step
        return self._now


@pytest.mark.parametrize(
    ("latency_seconds", "most", "expected"),
    [(0.0002, 16, 8), (0.0002, 32, 8), (0.0002, 4, 4), (0.002, 16, 16), (0.05, 32, 32)],
)
def test_a_near_source_gets_fewer(
    tmp_path: Path, latency_seconds: float, most: int, expected: int
) -> None:
    rig = Rig(tmp_path, "A" * 16)
    with serving(tmp_path, "file", str(rig.source)):
        source = Endpoint(rig.uri, Side.SOURCE)
        assert depth_for(source, most, 8, _Clock(latency_seconds)) == expected
        source.close()


def test_a_source_with_latency_gets_all(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "A" * 16)
    with serving(tmp_path, "--filter=delay", "file", str(rig.source), "rdelay=2ms"):
        source = Endpoint(rig.uri, Side.SOURCE)
        assert depth_for(source, 16, 8, time.monotonic) == 16
        source.close()


def test_a_source_that_cannot_be_read_is_left_to_the_copy(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "A" * 16)
    errors = ("error-pread=EIO", "error-pread-rate=100%")
    with serving(tmp_path, "--filter=error", "file", str(rig.source), *errors):
        source = Endpoint(rig.uri, Side.SOURCE)
        assert depth_for(source, 16, 8, time.monotonic) == 16
        source.close()
