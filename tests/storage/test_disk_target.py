"""The server of a target image: files that an earlier server left are ignored."""

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from services.disk_agent.engine.endpoint import Endpoint, Side
from services.disk_agent.transfer_failures import TargetUnusable
from services.disk_agent.worker.qemu_nbd import TargetServer
from tests.rigs.disk.transfer import BLOCK, create_image

SIZE = 16 * BLOCK
_WORKER = """
import sys
from pathlib import Path
from services.disk_agent.worker.qemu_nbd import TargetServer

with TargetServer(Path(sys.argv[1]), Path(sys.argv[2]), writable=True):
    print("served", flush=True)
    sys.stdin.read()
"""


def leave_a_killed_workers_files(image: Path, folder: Path) -> None:
    """SIGKILL a worker while its qemu-nbd serves; the kernel ends qemu-nbd with it."""
    command = [sys.executable, "-c", _WORKER, str(image), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"served\n"
        qemu_nbd = os.pidfd_open(int((folder / "target.pid").read_text()))
        worker.kill()
    assert select.select([qemu_nbd], [], [], 5) == ([qemu_nbd], [], [])
    os.close(qemu_nbd)
    assert {path.name for path in folder.iterdir()} == {"target.sock", "target.pid"}


def test_a_killed_workers_pid_file_is_not_taken_for_a_served_image(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    image, broken = tmp_path / "disk.qcow2", tmp_path / "block.qcow2"
    create_image(image, SIZE)
    broken.write_bytes(b"no QCOW2")
    leave_a_killed_workers_files(image, folder)
    with pytest.raises(TargetUnusable, match="cannot open") as caught:
        TargetServer(broken, folder, writable=True).__enter__()
    assert caught.value.reason == "TARGET_UNUSABLE"
    leave_a_killed_workers_files(image, folder)
    stale = (folder / "target.pid").read_text()
    with TargetServer(image, folder, writable=True) as server:
        assert (folder / "target.pid").read_text() != stale
        target = Endpoint(server.uri, Side.TARGET)
        assert target.size_bytes == SIZE
        target.close()
    assert list(folder.iterdir()) == []


def test_an_image_that_is_only_read_is_read_from_storage(tmp_path: Path) -> None:
    found = ["findmnt", "--noheadings", "--output=FSTYPE", f"--target={tmp_path}"]
    if subprocess.run(found, capture_output=True, text=True, check=True).stdout.strip() == "tmpfs":
        pytest.skip("what is in tmpfs is nowhere else")
    image = tmp_path / "disk.qcow2"
    create_image(image, SIZE)
    subprocess.run(["qemu-io", "-c", f"write -q -P 7 0 {SIZE}", str(image)], check=True)
    subprocess.run(["sync", str(image)], check=True)
    image.read_bytes()
    before = cached_bytes(image)

    with TargetServer(image, tmp_path, writable=False, cache="none"):
        after = cached_bytes(image)

    assert before >= SIZE
    # qemu-nbd looks at the header without O_DIRECT first.
    assert after < SIZE // 2


def cached_bytes(path: Path) -> int:
    """The part of a file that is in the page cache."""
    command = ["fincore", "--bytes", "--noheadings", "--output=RES", str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    image = tmp_path / "disk.qcow2"
    create_image(image, SIZE)
    mark = tmp_path / "missing" / "disk.map.open"

    with pytest.raises(TargetUnusable, match="cannot be written to: No such file"):
        TargetServer(image, tmp_path, writable=True, open_mark=mark).__enter__()
