"""Expert commands that are killed, interrupted, or run on a host with no room left."""

import json
import os
import select
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from lab.esxi.client import DiskFault
from tests.rigs.disk.expert import MIB, Expert, source_served


@pytest.mark.parametrize(
    ("whom", "number", "status", "expected"),
    [
        ("cli", signal.SIGTERM, 130, "the same command resumes"),
        ("cli", signal.SIGHUP, 130, "the same command resumes"),
        ("disk_agent.worker", signal.SIGKILL, 1, "exited without reporting a result (signal 9)"),
    ],
)
def test_killed_in_mid_copy_it_reports_it_and_resumes(
    expert: Expert, whom: str, number: int, status: int, expected: str
) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    slow = DiskFault(kind="latency", vm="vm-1", key=2000, count=0, milliseconds=5000)
    expert.esxi.client.inject_fault(slow)
    spec: dict[str, Any] = {"snapshot_moref": "snapshot-1"}
    # A short path: sockets are made below it (unix(7): 107 bytes).
    with (
        tempfile.TemporaryDirectory(prefix="v2c-") as temporary,
        expert.started("base-copy", "base_copy", Path(temporary), **spec) as command,
    ):
        folder = Path(temporary)
        source_served(folder, command)
        children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text()
        os.kill(command.pid if whom == "cli" else int(children), number)
        _, stderr = command.communicate(timeout=30)
        left = list(folder.iterdir())

    assert command.returncode == status
    assert expected in stderr
    assert "Traceback" not in stderr
    assert not left
    expert.esxi.client.clear_faults()
    assert expert.v2c("base-copy", "base_copy", **spec).returncode == 0
    assert expert.image_content() == expert.snapshot_content("snapshot-1")


def test_interrupted_it_keeps_what_was_copied(expert: Expert) -> None:
    for chunk in range(4):
        expert.write(chunk * MIB, b"c", MIB)
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    slow = DiskFault(kind="latency", vm="vm-1", key=2000, count=0, milliseconds=500)
    expert.esxi.client.inject_fault(slow)
    spec: dict[str, Any] = {"snapshot_moref": "snapshot-1", "queue_depth": 1}
    with expert.started("base-copy", "base_copy", None, **spec) as command:
        for line in command.stderr or ():
            if line.strip().startswith("25 %"):
                break
        command.send_signal(signal.SIGINT)
        command.communicate(timeout=30)
    expert.esxi.client.clear_faults()

    rest = expert.v2c("base-copy", "base_copy", **spec)

    assert command.returncode == 130
    assert rest.returncode == 0, rest.stderr
    assert "4.2 MB read" not in rest.stdout
    assert "MB read" in rest.stdout
    assert expert.image_content() == expert.snapshot_content("snapshot-1")


def test_a_killed_commands_folder_and_processes_go_with_the_next(expert: Expert) -> None:
    """A stopped nbdkit does not notice that its parent ended."""
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    slow = DiskFault(kind="latency", vm="vm-1", key=2000, count=0, milliseconds=5000)
    expert.esxi.client.inject_fault(slow)
    spec: dict[str, Any] = {"snapshot_moref": "snapshot-1"}
    with tempfile.TemporaryDirectory(prefix="v2c-") as temporary:
        folder = Path(temporary)
        with expert.started("base-copy", "base_copy", folder, **spec) as command:
            served = source_served(folder, command)
            while not (written := served.read_text()):
                time.sleep(0.01)
            nbdkit = os.pidfd_open(int(written))
            signal.pidfd_send_signal(nbdkit, signal.SIGSTOP)
            command.kill()
        assert len(list(folder.iterdir())) == 1
        expert.esxi.client.clear_faults()
        with expert.started("base-copy", "base_copy", folder, **spec) as again:
            _, stderr = again.communicate(timeout=60)
        assert again.returncode == 0, stderr
        assert select.select([nbdkit], [], [], 5) == ([nbdkit], [], [])
        os.close(nbdkit)
        assert list(folder.iterdir()) == []
    assert expert.image_content() == expert.snapshot_content("snapshot-1")


@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize("where", ["full", "closed"])
def test_where_nothing_can_be_written_to_the_copy_still_ends(
    expert: Expert, options: tuple[str, ...], where: str
) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    spec: dict[str, Any] = {"snapshot_moref": "snapshot-1"}
    reading, writing = os.pipe()
    os.close(reading)
    nowhere = os.open("/dev/full", os.O_WRONLY) if where == "full" else writing

    with expert.started("base-copy", "base_copy", None, *options, **spec, streams=nowhere) as copy:
        copy.wait(60)

    assert copy.returncode == 1
    assert expert.image_content() == expert.snapshot_content("snapshot-1")
    again = expert.v2c("base-copy", "base_copy", **spec)
    assert again.returncode == 0
    assert "complete already, nothing was copied" in again.stdout


def test_no_space_for_the_map_is_no_defect(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    # Every write to it fails with ENOSPC (full(4)); as a link it is what the new map opens.
    (expert.folder / ".a.qcow2.map.new").symlink_to("/dev/full")

    full = expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1")
    (expert.folder / ".a.qcow2.map.new").unlink()
    again = expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1")

    assert full.returncode == 1
    assert "the file system of the chunk map" in full.stderr
    assert "No space left on device" in full.stderr
    assert again.returncode == 0, again.stderr
    assert expert.image_content() == expert.snapshot_content("snapshot-1")


def test_no_room_for_the_ranges_is_reported(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    assert expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1").returncode == 0
    (expert.folder / "r.json").write_text(json.dumps([[n * 1024, 512] for n in range(4096)]))
    small = expert.folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(small)], check=True)
    try:
        delta: dict[str, Any] = {"snapshot_moref": "snapshot-1", "ranges_file": "r.json"}
        with expert.started("delta-sync", "delta_sync", small, **delta) as command:
            _, stderr = command.communicate(timeout=60)
        left = list(small.iterdir())
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert command.returncode == 1
    assert "No space left on device" in stderr
    assert "Traceback" not in stderr
    assert left == []


def test_a_map_that_the_host_refuses_is_reported(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    (expert.folder / ".a.qcow2.map.new").mkdir()

    refused = expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1")

    assert refused.returncode == 1
    assert "a.qcow2.map.new': Is a directory" in refused.stderr
    assert "without reporting" not in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_temporary_folder_too_deep_for_sockets_is_reported(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    deep = expert.folder / ("d" * 80)
    deep.mkdir()
    with expert.started("base-copy", "base_copy", deep, snapshot_moref="snapshot-1") as command:
        _, stderr = command.communicate(timeout=60)
    assert command.returncode == 1
    assert "107 are possible. Set TMPDIR" in stderr
