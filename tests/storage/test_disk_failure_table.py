"""The failure table: faults during a copy, their reasons, and that a resumed pass completes it.

Each row breaks a full copy in its second half. Then the same pass is run again on a healthy host:
the image is the source's byte for byte, what was durable is not copied twice, and verification
finds every chunk. Full storage, which needs file systems of its own, is in
test_disk_engine_failures, storage that fails in test_disk_failing_storage, killed workers and
agents are in tests/crash, and impossible ranges are in test_disk_engine_parts and tests/contract.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.disk_agent.engine.control import Control
from services.disk_agent.engine.progress import Progress
from services.disk_agent.transfer_failures import (
    SourceFailed,
    SourceLost,
    TargetFailed,
    TransferCancelled,
    TransferFailure,
)
from services.disk_agent.worker.modes import Mode
from tests.rigs.disk.transfer import BLOCK, Rig, is_root, overwrite

DISK = "AAAA----BBBBC0-DEEEEFFFF" * 8
FILTERS = ("--filter=error", "--filter=delay", "file")


@dataclass(frozen=True)
class Row:
    """`break_it` is called once during the copy; `failure` None means that the copy continues."""

    name: str
    break_it: Callable[[Rig, Control], None]
    failure: type[TransferFailure] | None
    retryable: bool = False
    parameters: tuple[str, ...] = ()
    afterwards: Callable[[Rig], None] = lambda rig: None
    # Whether the second attempt keeps the chunks of the first.
    resumes: bool = True
    notice: str = ""


def _fail_reads(rig: Rig, control: Control) -> None:
    (rig.folder / "broken").touch()


def _kill(name: str) -> Callable[[Rig, Control], None]:
    def kill(rig: Rig, control: Control) -> None:
        os.kill(int((rig.folder / f"{name}.pid").read_text()), signal.SIGKILL)

    return kill


def _stop(rig: Rig, control: Control) -> None:
    control.stop = TransferCancelled("enough for this test")


def _damage_map(offset: int, content: bytes) -> Callable[[Rig], None]:
    def damage(rig: Rig) -> None:
        with rig.map.open("r+b") as file:
            file.seek(offset)
            file.write(content)

    return damage


def _tear_map(rig: Rig) -> None:
    os.truncate(rig.map, 2 * 4096 + 1000)


ROWS = [
    Row("extents fail", lambda rig, control: None, None,
        parameters=("error-extents=EIO", "error-extents-rate=100%"), notice="everything is read"),
    Row("reads fail now and then", lambda rig, control: None, None,
        parameters=("error-pread=EIO", "error-pread-rate=10%")),
    Row("reads fail for good", _fail_reads, SourceFailed, retryable=True,
        parameters=("error-pread=EIO", "error-pread-rate=100%",
                    "error-pread-file={folder}/broken")),
    Row("source dies", _kill("source"), SourceLost, retryable=True),
    Row("target dies", _kill("target"), TargetFailed, retryable=True),
    Row("map torn", _stop, TransferCancelled, afterwards=_tear_map, resumes=False),
    Row("map page corrupt", _stop, TransferCancelled, resumes=False,
        afterwards=_damage_map(2 * 4096 + 100, b"\xff" * 16)),
    Row("map header torn", _stop, TransferCancelled, afterwards=_damage_map(8, b"\xff" * 64)),
    Row("map headers corrupt", _stop, TransferCancelled, resumes=False,
        afterwards=_damage_map(0, b"\xff" * 8192)),
    Row("map lost", _stop, TransferCancelled, resumes=False,
        afterwards=lambda rig: rig.map.unlink()),
]  # fmt: skip


def _in_second_half(rig: Rig, break_it: Callable[[], None]) -> Callable[[Control, Progress], None]:
    at_half: list[int] = []
    broken: list[bool] = []

    def on_report(control: Control, progress: Progress) -> None:
        if progress.done_bytes <= rig.size // 2 or broken:
            return
        at_half.append(progress.checkpoints)
        # Wait for another checkpoint: the earlier ones may have been made when little was copied.
        if progress.checkpoints > at_half[0]:
            broken.append(True)
            break_it()

    return on_report


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_copy_that_broke_is_completed_by_running_it_again(tmp_path: Path, row: Row) -> None:
    rig = Rig(tmp_path, DISK)
    parameters = [each.format(folder=tmp_path) for each in row.parameters]
    server = (*FILTERS, str(rig.source), "rdelay=6ms", *parameters)
    controls: list[Control] = []
    trigger = _in_second_half(rig, lambda: row.break_it(rig, controls[0]))

    def on_report(control: Control, progress: Progress) -> None:
        controls.append(control)
        trigger(control, progress)

    with contextlib.ExitStack() as stack:
        if row.failure is not None:
            caught = stack.enter_context(pytest.raises(row.failure))
        outcome = rig.run(server=server, on_report=on_report)
        assert row.notice in " ".join(outcome.notices)
    if row.failure is not None:
        assert caught.value.retryable is row.retryable
        assert caught.value.message
    row.afterwards(rig)

    resumed = rig.run().progress
    rig.assert_identical()
    if row.resumes:
        assert resumed.resumed_bytes >= rig.size // 4
    verified = rig.run(Mode.VERIFY_TARGET, with_source=False).progress
    assert (verified.verified_bytes, verified.unverified_bytes) == (rig.size, 0)


@pytest.mark.skipif(not is_root(), reason="needs root for a loop device")
@pytest.mark.parametrize("cache", ["none", "writeback"])
@pytest.mark.parametrize("mode", [Mode.FULL, Mode.RANGES, Mode.RESYNC])
def test_a_copy_resumes_after_a_reset_of_the_host(tmp_path: Path, cache: str, mode: Mode) -> None:
    """The disk is a file under a loop device; a copy of that file is the disk after the reset.

    Data that the host's ext4 and page cache had not written there yet is lost, of the image and of
    the chunk map. The simulated disk keeps every write that it has acknowledged, and tears none.
    """
    rig = Rig(tmp_path, DISK)
    before, after = tmp_path / "before.ext4", tmp_path / "after.ext4"
    with before.open("wb") as file:
        file.truncate(96 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(before)], check=True)
    number, snapshot, ranges = 0, "s0", None
    with _mounted(before, tmp_path / "one") as folder:
        shutil.move(rig.image, folder / rig.image.name)
        rig.image, rig.map = folder / rig.image.name, folder / "disk.map"
        if mode is not Mode.FULL:
            rig.run(mode=Mode.FULL, cache=cache)
            number, snapshot = 1, "s1"
            ranges = [overwrite(rig.source, at, "xy0-z") for at in range(0, len(DISK) - 8, 8)]
        total = sum(each.length_bytes for each in ranges or []) if mode is Mode.RANGES else rig.size
        reset: list[bool] = []

        def on_report(control: Control, progress: Progress) -> None:
            if progress.done_bytes > total // 2 and progress.checkpoints and not reset:
                reset.append(True)
                _kill("target")(rig, control)
                shutil.copyfile(before, after)

        with pytest.raises(TargetFailed):
            rig.run(
                mode,
                number=number,
                snapshot=snapshot,
                ranges=ranges,
                server=("--filter=delay", "file", str(rig.source), "rdelay=10ms"),
                on_report=on_report,
                cache=cache,
            )
    with _mounted(after, tmp_path / "two") as folder:
        rig.image, rig.map = folder / rig.image.name, folder / "disk.map"
        resumed = rig.run(mode, number=number, snapshot=snapshot, ranges=ranges, cache=cache)
        rig.assert_identical()
        assert resumed.progress.resumed_bytes > 0
        rig.run(Mode.VERIFY_FULL)


@contextlib.contextmanager
def _mounted(device: Path, where: Path) -> Iterator[Path]:
    where.mkdir()
    # No commits by time: only data that was synced is durable.
    options = "loop,commit=300"
    subprocess.run(["mount", "-o", options, str(device), str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


def test_the_new_end_of_a_disk_that_grew_between_passes_is_copied(tmp_path: Path) -> None:
    rig = Rig(tmp_path, DISK)
    rig.run()
    with rig.source.open("ab") as file:
        file.write(b"t" * (3 * BLOCK + 512))
    size = rig.source.stat().st_size
    subprocess.run(["qemu-img", "resize", "-q", str(rig.image), str(size)], check=True)
    rig.run(Mode.RANGES, number=1, snapshot="s1", ranges=[overwrite(rig.source, 5, "x")])
    rig.assert_identical()
    verified = rig.run(Mode.VERIFY_TARGET).progress
    assert (verified.verified_bytes, verified.unverified_bytes) == (size, 0)
