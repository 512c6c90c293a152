"""Storage that fails while a target is written: the pass ends at once and records no lost write.

The storage is a file system on a device that refuses all writes while a file exists, as a broken
path to a LUN does. The device is a loop device on nbdfuse on nbdkit's error filter.
"""

import shutil
import string
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.disk_agent.engine.control import Control
from services.disk_agent.engine.progress import Progress
from services.disk_agent.engine.ranges import Range
from services.disk_agent.transfer_failures import TargetFailed
from services.disk_agent.worker.modes import Mode
from tests.rigs.disk.transfer import Rig, is_root, overwrite

# Neighbours differ, so that a block at a wrong offset is noticed.
_LETTERS = string.ascii_letters + "123456789"
DISK = "".join("-0"[at % 3 % 2] if at % 7 > 4 else _LETTERS[at % 61] for at in range(384))
_PATIENCE_SECONDS = 10.0


@dataclass
class Storage:
    """A mounted file system; its device fails all writes while `broken` exists."""

    device: Path
    mounted: Path
    broken: Path

    def mount(self) -> None:
        """Mount it; nothing of it is in the page cache then."""
        subprocess.run(["mount", "-o", "loop", str(self.device), str(self.mounted)], check=True)
        found = subprocess.check_output(["findmnt", "-no", "SOURCE", str(self.mounted)], text=True)
        # FUSE splits larger writes; Linux's loop device takes a partly failed one for a success.
        queue = Path("/sys/block") / Path(found.strip()).name / "queue"
        (queue / "max_sectors_kb").write_text("64")

    def unmount(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", str(self.mounted)], check=True)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    made = Storage(tmp_path / "device", tmp_path / "mounted", tmp_path / "broken")
    made.device.touch()
    made.mounted.mkdir()
    filtered = ["--filter=error", "memory", "96M", "error-pwrite=EIO", "error-pwrite-rate=100%"]
    server = ["nbdkit", "--exit-with-parent", *filtered, f"error-pwrite-file={made.broken}"]
    pidfile = tmp_path / "device.pid"
    with (tmp_path / "device.log").open("wb") as log:
        command = ["nbdfuse", "--pidfile", str(pidfile), str(made.device), "[", *server, "]"]
        device = subprocess.Popen(command, stderr=log)
    try:
        while not pidfile.exists():
            assert device.poll() is None, (tmp_path / "device.log").read_text()
            time.sleep(0.01)
        # A file system with a journal becomes read-only when one write to its journal fails.
        command = ["mkfs.ext4", "-q", "-F", "-O", "^has_journal", str(made.device)]
        subprocess.run(command, check=True)
        made.mount()
        yield made
        made.broken.unlink(missing_ok=True)
        made.unmount()
        subprocess.run(["umount", str(made.device)], check=True)
        assert device.wait(_PATIENCE_SECONDS) == 0
    finally:
        device.kill()
        device.wait()


@pytest.mark.skipif(
    not is_root() or not Path("/dev/fuse").exists(), reason="needs root, FUSE and a loop device"
)
@pytest.mark.parametrize("mounted_anew", [True, False], ids=["mounted anew", "stays mounted"])
@pytest.mark.parametrize("cache", ["none", "writeback"])
@pytest.mark.parametrize("mode", [Mode.FULL, Mode.RANGES, Mode.RESYNC])
def test_a_pass_ends_when_writes_fail_and_resumes_when_they_do_not(
    tmp_path: Path, storage: Storage, mode: Mode, cache: str, *, mounted_anew: bool
) -> None:
    """Without the page cache the write fails; with it, the next flush fails."""
    rig = Rig(tmp_path, DISK)
    rig.image = Path(shutil.move(rig.image, storage.mounted / rig.image.name))
    number, snapshot, ranges = 0, "s0", None
    if mode is not Mode.FULL:
        rig.run(cache=cache)
        number, snapshot, ranges = 1, "s1", _change(rig.source)
    total = sum(each.length_bytes for each in ranges or []) if mode is Mode.RANGES else rig.size
    broken_at: list[float] = []

    def on_report(control: Control, progress: Progress) -> None:
        if progress.done_bytes > total // 2 and progress.checkpoints and not broken_at:
            broken_at.append(time.monotonic())
            storage.broken.touch()

    with pytest.raises(TargetFailed, match="the target failed: Input/output error") as caught:
        rig.run(
            mode,
            number=number,
            snapshot=snapshot,
            ranges=ranges,
            server=("--filter=delay", "file", str(rig.source), "rdelay=6ms"),
            on_report=on_report,
            cache=cache,
        )
    assert time.monotonic() - broken_at[0] < _PATIENCE_SECONDS
    assert caught.value.metadata["errno"] == "EIO"
    assert caught.value.retryable
    assert "check the storage below the target image" in caught.value.hint

    storage.broken.unlink()
    if mounted_anew:
        storage.unmount()
        storage.mount()
    resumed = rig.run(mode, number=number, snapshot=snapshot, ranges=ranges, cache=cache)
    assert resumed.notices == []
    assert resumed.progress.resumed_bytes >= total // 4
    assert resumed.progress.done_bytes == total
    # The reads must come from the storage and not from the page cache.
    storage.unmount()
    storage.mount()
    rig.assert_identical()


def _change(source: Path) -> list[Range]:
    """Overwrite blocks in all parts of a disk, some with zeroes."""
    changed = []
    for at in range(0, len(DISK) - 8, 8):
        first, second, third = (_LETTERS[(at * 5 + more) % 61] for more in (7, 20, 40))
        changed.append(overwrite(source, at, f"{first}{second}0-{third}"))
    return changed
