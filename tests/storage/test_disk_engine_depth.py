"""How many bytes are in flight follows how long the source keeps the engine idle."""

from pathlib import Path

import pytest

from services.disk_agent.engine.core import Engine, Slot, Tuning
from services.disk_agent.engine.depth import Depth
from services.disk_agent.worker.modes import Mode
from tests.rigs.disk.transfer import CHUNK, Rig, serving


def _reviewed(depth: Depth, share: float, times: int, began: float = 0.0) -> list[int]:
    """The chunks in flight after each window, given each window's share of idle time."""
    found = []
    now = began
    for _ in range(times):
        now, before = depth.review_at, now
        depth.starved_seconds += share * (now - before)
        depth.review(now)
        found.append(depth.bytes // CHUNK)
    return found


def test_depth_grows_to_the_most_while_the_source_keeps_the_engine_idle() -> None:
    assert _reviewed(Depth(8, 16, CHUNK, 0.0), 0.9, 6) == [10, 12, 14, 16, 16, 16]


def test_depth_stays_while_source_and_target_are_both_busy() -> None:
    assert _reviewed(Depth(8, 16, CHUNK, 0.0), 0.2, 3) == [8, 8, 8]


def test_depth_shrinks_to_the_least_once_the_source_keeps_up() -> None:
    depth = Depth(8, 16, CHUNK, 0.0)
    _reviewed(depth, 0.9, 1)
    assert _reviewed(depth, 0.0, 4, depth.review_at - 0.05) == [9, 8, 8, 8]


def test_the_most_is_never_exceeded_by_the_least() -> None:
    depth = Depth(8, 3, CHUNK, 0.0)
    assert depth.bytes == 3 * CHUNK
    assert _reviewed(depth, 0.9, 2) == [3, 3]


@pytest.fixture
def in_flight(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of chunks in flight each time that one was finished."""
    found: list[int] = []
    release = Engine.release

    def released(engine: Engine, slot: Slot) -> None:
        found.append(len(engine._active))
        release(engine, slot)

    monkeypatch.setattr(Engine, "release", released)
    return found


def test_a_far_source_raises_the_depth(tmp_path: Path, in_flight: list[int]) -> None:
    rig = Rig(tmp_path, "ABCD" * 256)
    far = ("--filter=delay", "file", str(rig.source), "rdelay=20ms")
    rig.run(server=far, tuning=Tuning(depth=16, near_depth=4))
    rig.assert_identical()
    assert in_flight[0] == 4
    assert max(in_flight) == 16


@pytest.mark.parametrize("delay", ["rdelay=20ms", "wdelay=20ms"])
def test_a_far_target_does_not_raise_the_depth(
    tmp_path: Path, in_flight: list[int], delay: str
) -> None:
    rig = Rig(tmp_path, "ABCD" * 256)
    far = ("--filter=delay", "memory", str(rig.size), delay)
    with serving(tmp_path, *far, name="far", writable=True):
        # It reads chunks of the target that no map records, and writes those that differ.
        uri = f"nbd+unix:///?socket={tmp_path}/far.sock"
        rig.run_to(Mode.RESYNC, uri, Tuning(depth=16, near_depth=4))
    assert max(in_flight) <= 6
