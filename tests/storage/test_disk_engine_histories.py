"""Random writes, passes and kills: in the end the image equals the source."""

import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.disk_agent.engine.control import Control
from services.disk_agent.engine.progress import Progress
from services.disk_agent.engine.ranges import Range
from services.disk_agent.transfer_failures import TransferCancelled
from services.disk_agent.worker.modes import Mode
from tests.rigs.disk.transfer import Rig, overwrite

BLOCKS = 40
LETTERS = "AB0-"


@dataclass
class Step:
    """Writes between two passes, and the number of reports after which the pass is stopped."""

    mode: Mode
    writes: list[tuple[int, str]]
    stop_after: int | None


steps = st.builds(
    Step,
    mode=st.sampled_from([Mode.RANGES, Mode.RANGES, Mode.RESYNC]),
    writes=st.lists(
        st.tuples(st.integers(0, BLOCKS - 1), st.sampled_from(list("xyz0-"))), max_size=12
    ),
    stop_after=st.one_of(st.none(), st.integers(0, 4)),
)


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(seed=st.integers(0, 1 << 30), history=st.lists(steps, max_size=4))
def test_any_history_ends_in_equal_images(seed: int, history: list[Step]) -> None:
    letters = "".join(random.Random(seed).choices(LETTERS, k=BLOCKS))
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder), letters)
        rig.run()
        pending: set[int] = set()
        for number, step in enumerate(history, start=1):
            for index, letter in step.writes:
                overwrite(rig.source, index, letter)
                pending.add(index)
            # A pass that was stopped is not done: the next one covers its areas too.
            ranges = [Range(index << 16, 1 << 16) for index in sorted(pending)]
            if run_until_stopped(rig, step, number, ranges):
                pending.clear()
        rig.run(
            Mode.RANGES,
            number=99,
            snapshot="last",
            ranges=[Range(index << 16, 1 << 16) for index in sorted(pending)],
        )
        rig.assert_identical()
        rig.run(Mode.VERIFY_TARGET)


def run_until_stopped(rig: Rig, step: Step, number: int, ranges: list[Range]) -> bool:
    """Run a pass; returns whether it completed."""
    reports = 0

    def on_report(control: Control, progress: Progress) -> None:
        nonlocal reports
        reports += 1
        if step.stop_after is not None and reports > step.stop_after:
            control.stop = TransferCancelled("stopped")

    try:
        rig.run(step.mode, number=number, snapshot=f"s{number}", ranges=ranges, on_report=on_report)
    except TransferCancelled:
        return False
    return True
