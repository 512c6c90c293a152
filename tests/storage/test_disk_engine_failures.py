"""Which failures end a pass, which slow it down, and how a resumed pass continues after them."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.disk_agent.engine.control import Control
from services.disk_agent.engine.core import Tuning
from services.disk_agent.engine.progress import Progress
from services.disk_agent.engine.ranges import total_bytes
from services.disk_agent.transfer_failures import (
    MapUnusable,
    SourceFailed,
    SourceLost,
    TargetFailed,
    TargetFull,
    TransferCancelled,
)
from services.disk_agent.worker import qemu_nbd
from services.disk_agent.worker.modes import Mode
from tests.rigs.disk.transfer import BLOCK, CHUNK, Rig, is_root, overwrite

DISK = "AAAA----BBBBC0-D" * 8
SLOW = ("--filter=delay", "file", "rdelay=5ms")


def cancel_after(done_bytes: int) -> Callable[[Control, Progress], None]:
    """Stop a pass when it has done this number of bytes."""

    def on_report(control: Control, progress: Progress) -> None:
        if progress.done_bytes >= done_bytes:
            control.stop = TransferCancelled("enough for this test")

    return on_report


def test_extents_that_fail_mean_reading_everything(tmp_path: Path) -> None:
    rig = Rig(tmp_path, DISK)
    filters = ("--filter=error", "file", str(rig.source), "error-extents=EIO")
    outcome = rig.run(server=(*filters, "error-extents-rate=100%"))
    rig.assert_identical()
    assert outcome.progress.read_bytes == rig.size
    assert len(outcome.notices) == 1
    assert "everything is read" in outcome.notices[0]


def test_no_extents_mean_reading_everything(tmp_path: Path) -> None:
    rig = Rig(tmp_path, DISK)
    outcome = rig.run(server=("--filter=noextents", "file", str(rig.source)))
    rig.assert_identical()
    # Zeroes are found in the data that was read, cluster by cluster of the image.
    assert outcome.progress.written_bytes == sum(letter in "ABCD" for letter in DISK) * BLOCK
    assert rig.run(Mode.VERIFY_TARGET, with_source=False).progress.unverified_chunks == 0


def test_read_that_fails_once_is_repeated(tmp_path: Path) -> None:
    rig = Rig(tmp_path, DISK)
    filters = ("--filter=error", "file", str(rig.source), "error-pread=EIO")
    tuning = Tuning(depth=4, retry_seconds=0.001, read_attempts=30)
    rig.run(server=(*filters, "error-pread-rate=40%"), tuning=tuning)
    rig.assert_identical()


def test_read_that_fails_in_every_attempt_leaves_the_map_intact(tmp_path: Path) -> None:
    rig = Rig(tmp_path, DISK)
    broken = tmp_path / "broken"
    filters = ("--filter=error", "--filter=delay", "file", str(rig.source), "rdelay=5ms")
    server = (*filters, "error-pread=EIO", "error-pread-rate=100%", f"error-file={broken}")

    def break_half_way(control: Control, progress: Progress) -> None:
        if progress.done_bytes > rig.size // 2:
            broken.touch()

    with pytest.raises(SourceFailed) as caught:
        rig.run(server=server, on_report=break_half_way)
    assert caught.value.metadata["errno"] == "EIO"
    resumed = rig.run().progress
    rig.assert_identical()
    assert resumed.resumed_bytes >= rig.size // 3


def test_source_that_dies_is_lost_and_resumed(tmp_path: Path) -> None:
    rig = Rig(tmp_path, DISK)

    def kill(control: Control, progress: Progress) -> None:
        if progress.done_bytes > rig.size // 2:
            _kill_by_pidfile(tmp_path / "source.pid")

    with pytest.raises(SourceLost):
        rig.run(server=(*SLOW, str(rig.source)), on_report=kill)
    assert rig.run().progress.resumed_bytes >= rig.size // 3
    rig.assert_identical()


def test_target_that_dies_fails_and_is_resumed(tmp_path: Path) -> None:
    rig = Rig(tmp_path, DISK)

    def kill(control: Control, progress: Progress) -> None:
        if progress.done_bytes > rig.size // 2 and progress.checkpoints:
            _kill_by_pidfile(tmp_path / "target.pid")

    with pytest.raises(TargetFailed) as caught:
        rig.run(server=(*SLOW, str(rig.source)), on_report=kill)
    assert caught.value.retryable
    resumed = rig.run().progress
    rig.assert_identical()
    assert resumed.resumed_bytes > 0


@pytest.mark.skipif(not is_root(), reason="needs root to mount a small file system")
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_full_storage_fails_at_once_and_resumes(tmp_path: Path, small_fs: Path) -> None:
    rig = Rig(tmp_path, "ABCDEFGH" * 32)
    rig.image.unlink()
    rig.image = small_fs / "target.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", str(rig.image), str(rig.size)], check=True
    )
    ballast = small_fs / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 18 << 20)
    with pytest.raises(TargetFull) as caught:
        rig.run()
    assert not caught.value.retryable
    ballast.unlink()
    rig.run()
    rig.assert_identical()


@pytest.fixture
def small_fs(tmp_path: Path, kind: str) -> Iterator[Path]:
    """A file system of 24 MiB: tmpfs refuses O_DIRECT, ext4 on a loop device takes it."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=24M", "none", str(mounted)]
    else:
        device = tmp_path / "ext4.raw"
        with device.open("wb") as file:
            file.truncate(24 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(device)], check=True)
        command = ["mount", "-o", "loop", str(device), str(mounted)]
    subprocess.run(command, check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_a_successful_flush_after_a_failed_one_records_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reports lost writes once; the next flush succeeds although they are lost."""
    rig = Rig(tmp_path, DISK)
    with monkeypatch.context() as patched:
        fail_first_flush(patched)
        with pytest.raises(TargetFailed, match="Input/output error"):
            rig.run(server=(*SLOW, str(rig.source)))
    assert rig.run().progress.resumed_bytes == 0
    rig.assert_identical()


def test_a_failed_last_flush_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the source would be opened again, and the copy continue after lost writes."""
    rig = Rig(tmp_path, DISK)
    fail_first_flush(monkeypatch)
    tuning = Tuning(depth=4, report_seconds=0.001, checkpoint_seconds=60.0)

    def kill(control: Control, progress: Progress) -> None:
        if progress.done_bytes > rig.size // 2:
            _kill_by_pidfile(tmp_path / "source.pid")

    with pytest.raises(TargetFailed, match="Input/output error"):
        rig.run(server=(*SLOW, str(rig.source)), tuning=tuning, on_report=kill)


def fail_first_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have qemu-nbd fail the first flush of an image, and no later one."""
    real = qemu_nbd.qemu_nbd_command

    def failing_once(
        image: Path, socket: Path, pidfile: Path, *, writable: bool, cache: str
    ) -> list[str]:
        command = real(image, socket, pidfile, writable=writable, cache=cache)
        command.remove("--format=qcow2")
        failing = "file.inject-error.0.event=flush_to_disk,file.inject-error.0.once=on"
        file = f"file.driver=blkdebug,{failing},file.image.driver=file,file.image.filename={image}"
        return [*command[:-2], "--image-opts", f"driver=qcow2,{file}"]

    monkeypatch.setattr(qemu_nbd, "qemu_nbd_command", failing_once)


def pass_over(rig: Rig, mode: Mode, letters: str, step: int) -> tuple[dict[str, Any], int]:
    """The arguments of `Rig.run` for a pass of a mode, and the pass's total bytes.

    For a pass after the first, the disk is copied first, then letters are written at each step.
    """
    if mode is Mode.FULL:
        return {}, rig.size
    rig.run()
    ranges = [overwrite(rig.source, index, letters) for index in range(0, 128, step)]
    whole = total_bytes(ranges) if mode is Mode.RANGES else rig.size
    return {"number": 1, "snapshot": "s1", "ranges": ranges}, whole


@pytest.mark.parametrize("mode", [Mode.FULL, Mode.RANGES, Mode.RESYNC])
def test_cancelled_pass_resumes_at_the_chunk(tmp_path: Path, mode: Mode) -> None:
    rig = Rig(tmp_path, "A" * 128)
    arguments, whole = pass_over(rig, mode, "xy", 8)
    half = whole // 2
    server = (*SLOW, str(rig.source))
    with pytest.raises(TransferCancelled):
        rig.run(mode, server=server, on_report=cancel_after(half), **arguments)
    resumed = rig.run(mode, **arguments).progress
    rig.assert_identical()
    assert resumed.resumed_bytes >= half // 2
    assert resumed.done_bytes == resumed.total_bytes
    again = rig.run(mode, **arguments).progress
    assert (again.read_bytes, again.resumed_bytes) == (0, again.total_bytes)


@pytest.mark.parametrize("mode", [Mode.FULL, Mode.RANGES, Mode.RESYNC])
def test_every_byte_counts_once_however_often_the_source_is_opened(
    tmp_path: Path, mode: Mode
) -> None:
    rig = Rig(tmp_path, "AB-C" * 32)
    arguments, whole = pass_over(rig, mode, "xy0", 4)
    server = (*SLOW, str(rig.source))
    with pytest.raises(TransferCancelled):
        rig.run(mode, server=server, on_report=cancel_after(whole // 4), **arguments)
    kills = [whole // 2, whole * 3 // 4]

    def kill(control: Control, progress: Progress) -> None:
        if kills and progress.done_bytes > kills[0]:
            kills.pop(0)
            _kill_by_pidfile(tmp_path / "source.pid")

    outcome = rig.run(mode, server=server, on_report=kill, reopens=True, **arguments)
    assert kills == []
    assert 0 < outcome.progress.resumed_bytes < whole // 2
    assert outcome.accounted_bytes == outcome.progress.total_bytes == whole
    rig.assert_identical()


def test_lost_snapshot_is_continued_with_the_next_one(tmp_path: Path) -> None:
    """If its snapshot is lost, a base copy continues with the pending and the changed areas."""
    rig = Rig(tmp_path, "A" * 64 + "-" * 64)
    with pytest.raises(TransferCancelled):
        rig.run(server=(*SLOW, str(rig.source)), on_report=cancel_after(rig.size // 4))
    changed = [overwrite(rig.source, 1, "x0"), overwrite(rig.source, 60, "----yyyy")]
    resumed = rig.run(snapshot="s1", number=1, ranges=changed).progress
    rig.assert_identical()
    assert resumed.resumed_bytes > 0
    assert rig.run(Mode.VERIFY_TARGET, with_source=False).progress.unverified_chunks == 0


def test_complete_copy_follows_the_snapshot_that_another_disk_lost(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "A" * 32)
    rig.run()
    changed = [overwrite(rig.source, 9, "x")]
    outcome = rig.run(snapshot="s1", ranges=changed)
    rig.assert_identical()
    assert outcome.progress.read_bytes == CHUNK
    again = rig.run(snapshot="s1", ranges=changed).progress
    assert (again.read_bytes, again.resumed_bytes) == (0, rig.size)


def test_other_snapshot_without_changed_areas_starts_anew(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "A" * 64)
    with pytest.raises(TransferCancelled):
        rig.run(server=(*SLOW, str(rig.source)), on_report=cancel_after(rig.size // 2))
    overwrite(rig.source, 0, "x" * 4 + "-" * 4)
    outcome = rig.run(snapshot="s1")
    rig.assert_identical()
    assert outcome.progress.resumed_bytes == 0


def test_image_made_anew_is_noticed(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "A" * 64)
    with pytest.raises(TransferCancelled):
        rig.run(server=(*SLOW, str(rig.source)), on_report=cancel_after(rig.size // 2))
    rig.image.unlink()
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", str(rig.image), str(rig.size)], check=True
    )
    outcome = rig.run()
    rig.assert_identical()
    assert any("copying anew" in notice for notice in outcome.notices)


@pytest.mark.parametrize("damage", ["page", "one header", "headers", "empty"])
def test_chunks_of_a_damaged_map_are_copied_again(tmp_path: Path, damage: str) -> None:
    rig = Rig(tmp_path, "A" * 64)
    with pytest.raises(TransferCancelled):
        rig.run(server=(*SLOW, str(rig.source)), on_report=cancel_after(rig.size // 2))
    _damage_map(rig.map, damage)
    rig.run()
    rig.assert_identical()
    assert rig.run(Mode.VERIFY_TARGET, with_source=False).progress.unverified_chunks == 0


@pytest.mark.parametrize("damage", ["headers", "empty"])
def test_delta_without_its_map_is_refused_and_resync_helps(tmp_path: Path, damage: str) -> None:
    rig = Rig(tmp_path, "A" * 64)
    rig.run()
    area = overwrite(rig.source, 3, "x")
    _damage_map(rig.map, damage)
    with pytest.raises(MapUnusable, match="map"):
        rig.run(Mode.RANGES, number=1, snapshot="s1", ranges=[area])
    rig.run(Mode.RESYNC, number=1, snapshot="s1")
    rig.assert_identical()
    assert rig.run(Mode.VERIFY_TARGET, with_source=False).progress.verified_chunks == 16


def test_interrupted_resync_compares_chunks_again_that_it_may_have_written(tmp_path: Path) -> None:
    """Content goes A, x, A while a re-sync is killed: its digest of A must not hide the x."""
    rig = Rig(tmp_path, "A" * 64)
    rig.run()
    intact = rig.map.read_bytes()
    overwrite(rig.source, 20, "x" * 4)
    # The crash: chunks are on the target, the map knows only that a re-sync had begun.
    began: list[bytes] = []

    def keep_map(control: Control, progress: Progress) -> None:
        if not began:
            began.append(rig.map.read_bytes())

    tuning = Tuning(depth=4, report_seconds=0.0, checkpoint_seconds=60.0)
    rig.run(Mode.RESYNC, number=1, snapshot="s1", tuning=tuning, on_report=keep_map)
    assert began
    assert began[0] != intact
    rig.map.write_bytes(began[0])
    overwrite(rig.source, 20, "A" * 4)
    rig.run(Mode.RESYNC, number=2, snapshot="s2")
    rig.assert_identical()


def _damage_map(path: Path, damage: str) -> None:
    with path.open("r+b") as file:
        if damage == "empty":
            file.truncate(0)
        elif damage == "page":
            file.seek(2 * 4096 + 100)
            file.write(b"\xff" * 16)
        else:
            file.write(b"\xff" * 64)
            if damage == "headers":
                file.seek(4096)
                file.write(b"\xff" * 64)


def _kill_by_pidfile(pidfile: Path) -> None:
    if pidfile.exists() and (text := pidfile.read_text().strip()):
        try:
            os.kill(int(text), 9)
        except ProcessLookupError:
            return
