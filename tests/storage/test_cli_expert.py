"""The expert commands on a real image: VDDK to QCOW2 by hand, then the changes."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.commands.expert import _remove_unused
from cli.scratch import scratch_folder
from lab.esxi.client import DiskFault
from lab.esxi.process import EsxiProcess, start_esxi
from services.disk_agent.supervisor import kill_processes_below
from tests.lab_esxi_rig import BLOCK, PASSWORD, build_vddk, connect, content

ROOT = Path(__file__).parents[2]
SIZE = 64 * BLOCK
MIB = 1 << 20
DISK = "[ds] a/a.vmdk"


@dataclass
class Expert:
    """A disk with a first snapshot, and the command on it."""

    esxi: EsxiProcess
    folder: Path
    vddk: dict[str, Any]

    @property
    def target(self) -> Path:
        return self.folder / "a.qcow2"

    def write(self, start: int, byte: bytes, length: int = BLOCK) -> None:
        handle = connect(self.esxi.nbd_socket, "vm-1/2000")
        handle.pwrite(byte * length, start)
        handle.flush()
        handle.shutdown()

    def snapshot_content(self, snapshot: str) -> bytes:
        return content(connect(self.esxi.nbd_socket, f"vm-1/2000@{snapshot}"))

    def image_content(self) -> bytes:
        raw = self.folder / "a.raw"
        subprocess.run(["qemu-img", "convert", "-O", "raw", str(self.target), str(raw)], check=True)
        return raw.read_bytes()

    def v2c(
        self, command: str, section: str, *options: str, enabled: bool = True, **job: Any
    ) -> subprocess.CompletedProcess[str]:
        with self.started(command, section, None, *options, enabled=enabled, **job) as process:
            said, errors = process.communicate(timeout=60)
        return subprocess.CompletedProcess(command, process.returncode, said, errors)

    def started(
        self,
        command: str,
        section: str,
        temporary: Path | None,
        *options: str,
        enabled: bool = True,
        streams: int = subprocess.PIPE,
        **job: Any,
    ) -> subprocess.Popen[str]:
        disk = {"disk_path": DISK, "target_qcow2": "a.qcow2", "disk_size_bytes": SIZE}
        document = {"vddk": self.vddk, section: {**disk, **job}}
        (self.folder / "expert.yaml").write_text(yaml.safe_dump(document))
        environment = {
            **os.environ,
            **({"TMPDIR": str(temporary)} if temporary else {}),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}",
            "V2C_ENABLE_EXPERT_COMMANDS": "1" if enabled else "",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "cli", command, "--spec", "expert.yaml", *options],
            cwd=self.folder,
            env=environment,
            stdout=streams,
            stderr=streams,
            # The tests themselves may run under nohup(1), which is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
            text=True,
        )


@pytest.fixture
def expert(tmp_path: Path) -> Iterator[Expert]:
    with start_esxi(tmp_path / "esxi") as esxi:
        esxi.client.add_disk("vm-1", 2000, DISK, SIZE)
        esxi.client.set_tracking("vm-1", 2000, True)
        vddk = {
            "libdir": str(build_vddk(tmp_path / "vddk", esxi)),
            "server": "vc.test",
            "port": 8443,
            "user": "administrator@vsphere.local",
            "password": PASSWORD,
            "thumbprint": "12:34:ab:cd",
            "vm_moref": "vm-1",
        }
        expert = Expert(esxi, tmp_path, vddk)
        expert.write(0, b"a")
        expert.write(5 * BLOCK, b"b", 3 * BLOCK)
        yield expert


def test_base_copy_then_delta_sync_equal_the_source(expert: Expert) -> None:
    first = expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])[2000]
    assert first.change_id is not None
    copied = expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1")
    assert copied.returncode == 0, copied.stderr
    assert expert.image_content() == expert.snapshot_content("snapshot-1")

    expert.write(6 * BLOCK, b"c")
    expert.write(40 * BLOCK, b"d")
    expert.esxi.client.create_snapshot("vm-1", "snapshot-2", [2000])
    changed = expert.esxi.client.changed_areas("vm-1", "snapshot-2", 2000, first.change_id, 0, 100)
    ranges = [{"start": start, "length": length} for start, length in changed.areas]
    (expert.folder / "ranges.json").write_text(json.dumps(ranges))
    synced = expert.v2c(
        "delta-sync", "delta_sync", snapshot_moref="snapshot-2", ranges_file="ranges.json"
    )

    assert synced.returncode == 0, synced.stderr
    assert expert.image_content() == expert.snapshot_content("snapshot-2")
    assert "131 kB read" in synced.stdout


def test_a_wrong_password_is_one_paragraph_without_it(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    expert.vddk["password"] = "hunter2"

    refused = expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1")

    assert refused.returncode == 1
    assert "password" in refused.stderr.splitlines()[-1]
    assert "hunter2" not in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("job", "told"),
    [
        ({"snapshot_moref": "s", "ranges_file": "r", "target_qcow2": "b.qcow2"}, "base-copy first"),
        ({"snapshot_moref": "s"}, "delta_sync.ranges_file: is required"),
        ({"snapshot_moref": "s", "ranges_file": "r", "chunk": 1}, "Did you mean chunk_mb?"),
        ({"snapshot_moref": "s", "ranges_file": "r", "target_qcow2": "no/b.qcow2"}, "base-copy"),
    ],
)
def test_mistakes_name_the_field(expert: Expert, job: dict[str, Any], told: str) -> None:
    refused = expert.v2c("delta-sync", "delta_sync", **job)

    assert refused.returncode in {1, 2}
    assert told in refused.stderr


def test_without_the_word_they_only_say_which_one(expert: Expert) -> None:
    refused = expert.v2c("base-copy", "base_copy", enabled=False, snapshot_moref="s")

    assert refused.returncode == 2
    assert "Set V2C_ENABLE_EXPERT_COMMANDS=1" in refused.stderr
    assert not expert.target.exists()


def test_another_disk_is_not_copied_over_an_image(expert: Expert) -> None:
    expert.esxi.client.add_disk("vm-1", 2001, "[ds] a/a_1.vmdk", SIZE)
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000, 2001])
    expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1")

    refused = expert.v2c(
        "base-copy", "base_copy", snapshot_moref="snapshot-1", disk_path="[ds] a/a_1.vmdk"
    )

    assert refused.returncode == 1
    assert "the image holds the disk vm-1:[ds] a/a.vmdk, not" in refused.stderr
    assert expert.image_content() == expert.snapshot_content("snapshot-1")


def test_corrected_ranges_of_the_same_snapshot_are_copied(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1")
    expert.write(40 * BLOCK, b"d")
    expert.esxi.client.create_snapshot("vm-1", "snapshot-2", [2000])
    for start in (0, 40 * BLOCK):
        (expert.folder / "ranges.json").write_text(json.dumps([[start, BLOCK]]))
        synced = expert.v2c(
            "delta-sync", "delta_sync", snapshot_moref="snapshot-2", ranges_file="ranges.json"
        )
        assert synced.returncode == 0, synced.stderr

    assert expert.image_content() == expert.snapshot_content("snapshot-2")


@pytest.mark.parametrize(
    ("whom", "number", "status", "told"),
    [
        ("cli", signal.SIGTERM, 130, "the same command goes on"),
        ("cli", signal.SIGHUP, 130, "the same command goes on"),
        ("disk_agent.worker", signal.SIGKILL, 1, "ended without a word (signal 9)"),
    ],
)
def test_killed_in_mid_copy_it_says_so_and_goes_on(
    expert: Expert, whom: str, number: int, status: int, told: str
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
        while not list(folder.glob("v2c-*/run/*/source.pid")):
            assert command.poll() is None
            time.sleep(0.01)
        children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text()
        os.kill(command.pid if whom == "cli" else int(children), number)
        _, said = command.communicate(timeout=30)
        left = list(folder.iterdir())

    assert command.returncode == status
    assert told in said
    assert "Traceback" not in said
    assert not left
    expert.esxi.client.clear_faults()
    assert expert.v2c("base-copy", "base_copy", **spec).returncode == 0
    assert expert.image_content() == expert.snapshot_content("snapshot-1")


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


def test_a_map_that_the_host_refuses_is_told(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    (expert.folder / ".a.qcow2.map.new").mkdir()

    refused = expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1")

    assert refused.returncode == 1
    assert "a.qcow2.map.new': Is a directory" in refused.stderr
    assert "without a word" not in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_wrong_size_leaves_no_image_of_that_size(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    spec: dict[str, Any] = {"snapshot_moref": "snapshot-1"}

    refused = expert.v2c("base-copy", "base_copy", **spec, disk_size_bytes=2 * SIZE)

    assert refused.returncode == 1
    assert "Correct disk_size_bytes" in refused.stderr
    assert list(expert.folder.glob("*.qcow2*")) == []
    assert expert.v2c("base-copy", "base_copy", **spec).returncode == 0
    again = expert.v2c("base-copy", "base_copy", **spec, disk_size_bytes=2 * SIZE)
    assert again.returncode == 1
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


def test_for_scripts_each_line_is_an_object(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    copied = expert.v2c("base-copy", "base_copy", "--json", snapshot_moref="snapshot-1")
    assert copied.returncode == 0, copied.stderr
    *events, end = [json.loads(line) for line in copied.stdout.splitlines()]
    assert {event["event"] for event in events} <= {"progress", "notice"}
    assert (end["event"], end["failure"]) == ("end", None)
    assert end["target_qcow2"] == str(expert.target)
    assert end["progress"]["done_bytes"] == SIZE


def test_an_image_of_somebody_else_is_not_written_over(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    create = ["qemu-img", "create", "-q", "-f", "qcow2", str(expert.target), str(SIZE)]
    subprocess.run(create, check=True)
    subprocess.run(["qemu-io", "-c", "write -q -P 7 0 64k", str(expert.target)], check=True)
    before = expert.target.read_bytes()

    refused = expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1")

    assert refused.returncode == 1
    assert "exists, and no chunk map says what it holds" in refused.stderr
    assert expert.target.read_bytes() == before
    # An empty one is what an attempt leaves that was killed early.
    subprocess.run(create, check=True)
    assert expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1").returncode == 0


def test_a_killed_commands_folder_and_processes_go_with_the_next(expert: Expert) -> None:
    """A stopped nbdkit does not hear that its parent ended."""
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    slow = DiskFault(kind="latency", vm="vm-1", key=2000, count=0, milliseconds=5000)
    expert.esxi.client.inject_fault(slow)
    spec: dict[str, Any] = {"snapshot_moref": "snapshot-1"}
    with tempfile.TemporaryDirectory(prefix="v2c-") as temporary:
        folder = Path(temporary)
        with expert.started("base-copy", "base_copy", folder, **spec) as command:
            while not (served := list(folder.glob("v2c-*/run/*/source.pid"))):
                assert command.poll() is None
                time.sleep(0.01)
            while not (written := served[0].read_text()):
                time.sleep(0.01)
            nbdkit = os.pidfd_open(int(written))
            signal.pidfd_send_signal(nbdkit, signal.SIGSTOP)
            command.kill()
        assert len(list(folder.iterdir())) == 1
        expert.esxi.client.clear_faults()
        with expert.started("base-copy", "base_copy", folder, **spec) as again:
            _, said = again.communicate(timeout=60)
        assert again.returncode == 0, said
        assert select.select([nbdkit], [], [], 5) == ([nbdkit], [], [])
        os.close(nbdkit)
        assert list(folder.iterdir()) == []
    assert expert.image_content() == expert.snapshot_content("snapshot-1")


def test_a_folder_that_another_command_uses_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed: list[Path] = []
    with scratch_folder(killed.append) as first, scratch_folder(killed.append) as second:
        assert first.is_dir()
        assert second.is_dir()
    assert killed == []


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


def test_a_temporary_folder_too_deep_for_sockets_is_told(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    deep = expert.folder / ("d" * 80)
    deep.mkdir()
    with expert.started("base-copy", "base_copy", deep, snapshot_moref="snapshot-1") as command:
        _, said = command.communicate(timeout=60)
    assert command.returncode == 1
    assert "107 are possible. Set TMPDIR" in said


def test_an_image_in_the_place_of_the_copy_is_not_taken_for_it(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    assert expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1").returncode == 0
    expert.target.unlink()
    create = ["qemu-img", "create", "-q", "-f", "qcow2", str(expert.target), str(SIZE)]
    subprocess.run(create, check=True)
    subprocess.run(["qemu-io", "-c", "write -q -P 7 2M 64k", str(expert.target)], check=True)
    before = expert.target.read_bytes()

    refused = expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1")

    assert refused.returncode == 1
    assert "does not hold what its map says" in refused.stderr
    assert "Put the image back, or" in refused.stderr
    assert expert.target.read_bytes() == before
    # An empty one is filled; an area of changes alone would leave holes.
    expert.target.unlink()
    subprocess.run(create, check=True)
    (expert.folder / "r.json").write_text(json.dumps([[0, BLOCK]]))
    delta: dict[str, Any] = {"snapshot_moref": "snapshot-1", "ranges_file": "r.json"}
    refused = expert.v2c("delta-sync", "delta_sync", **delta)
    assert refused.returncode == 1
    assert "the image is empty" in refused.stderr
    assert expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1").returncode == 0
    assert expert.image_content() == expert.snapshot_content("snapshot-1")


@pytest.mark.parametrize(
    ("ranges", "told"),
    [
        ('[{"start": 0, "start": 512, "length": 512}]', "a key comes twice"),
        ('[{"start": 0}]', "range 1 is no range"),
    ],
)
def test_ranges_are_read_to_the_letter(expert: Expert, ranges: str, told: str) -> None:
    expert.target.touch()
    (expert.folder / "r.json").write_text(ranges)
    refused = expert.v2c("delta-sync", "delta_sync", snapshot_moref="s", ranges_file="r.json")
    assert refused.returncode == 1
    assert told in refused.stderr


def test_the_image_that_another_command_fills_is_left_alone(expert: Expert) -> None:
    """Whoever comes second is told so, and removes nothing when it fails."""
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    slow = DiskFault(kind="latency", vm="vm-1", key=2000, count=0, milliseconds=5000)
    expert.esxi.client.inject_fault(slow)
    spec: dict[str, Any] = {"snapshot_moref": "snapshot-1"}
    with (
        tempfile.TemporaryDirectory(prefix="v2c-") as temporary,
        expert.started("base-copy", "base_copy", Path(temporary), **spec) as first,
    ):
        while not list(Path(temporary).glob("v2c-*/run/*/source.pid")):
            assert first.poll() is None
            time.sleep(0.01)
        second = expert.v2c("base-copy", "base_copy", **spec)
        assert second.returncode == 1
        assert "is in use by another process" in second.stderr
        made = expert.target.stat()
        _remove_unused(expert.target, made)
        assert expert.target.exists()
        expert.esxi.client.clear_faults()
        first.communicate(timeout=60)
    assert first.returncode == 0
    assert expert.image_content() == expert.snapshot_content("snapshot-1")


def test_a_map_that_says_nothing_vouches_for_no_image(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    assert expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1").returncode == 0
    chunk_map = expert.folder / ".a.qcow2.map"
    chunk_map.write_bytes(bytes(chunk_map.stat().st_size))
    before = expert.target.read_bytes()

    refused = expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1")

    assert refused.returncode == 1
    assert "no chunk map says what it holds" in refused.stderr
    assert expert.target.read_bytes() == before


@pytest.mark.parametrize(
    ("job", "told"),
    [
        ({"target_qcow2": "gone.qcow2"}, "gone.qcow2 points to nothing"),
        ({"target_qcow2": "folder.qcow2"}, "folder.qcow2 is no file"),
        ({"target_qcow2": "nowhere/a.qcow2"}, "there is no folder"),
        ({"target_qcow2": f"{'d' * 300}/a.qcow2"}, "File name too long"),
        ({"disk_path": "a\0b"}, "base_copy.disk_path"),
        ({"snapshot_moref": ""}, "base_copy.snapshot_moref"),
    ],
)
def test_what_can_be_no_copy_is_told_in_a_line(
    expert: Expert, job: dict[str, Any], told: str
) -> None:
    (expert.folder / "gone.qcow2").symlink_to(expert.folder / "missing" / "a.qcow2")
    (expert.folder / "folder.qcow2").mkdir()

    refused = expert.v2c("base-copy", "base_copy", **{"snapshot_moref": "s", **job})

    assert refused.returncode in {1, 2}
    assert told in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_password_that_is_none_does_not_hang(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    expert.vddk["password"] = "x" * 100_000
    refused = expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1")
    assert refused.returncode == 1
    assert "the password has more than 4096 bytes" in refused.stderr


def test_no_room_for_the_ranges_is_told(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    assert expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1").returncode == 0
    (expert.folder / "r.json").write_text(json.dumps([[n * 1024, 512] for n in range(4096)]))
    small = expert.folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(small)], check=True)
    try:
        delta: dict[str, Any] = {"snapshot_moref": "snapshot-1", "ranges_file": "r.json"}
        with expert.started("delta-sync", "delta_sync", small, **delta) as command:
            _, said = command.communicate(timeout=60)
        left = list(small.iterdir())
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert command.returncode == 1
    assert "No space left on device" in said
    assert "Traceback" not in said
    assert left == []


def test_only_servers_of_this_user_below_the_folder_are_killed(tmp_path: Path) -> None:
    reading = tmp_path / "log"
    reading.touch()
    bystander = subprocess.Popen(["tail", "-f", str(reading)])
    serving = ["nbdkit", "-f", f"--unix={tmp_path}/s.sock", "null", "1M"]
    server = subprocess.Popen(serving)
    try:
        while not (tmp_path / "s.sock").exists():
            time.sleep(0.01)
        assert kill_processes_below(tmp_path / "s") == 0
        assert kill_processes_below(tmp_path) == 1
        assert server.wait(10) == -signal.SIGKILL
        assert bystander.poll() is None
    finally:
        for process in (bystander, server):
            process.kill()
            process.wait()


def test_folders_of_others_or_just_made_are_left_and_old_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fresh, old, foreign, link = (tmp_path / f"v2c-cli-{name}" for name in "abcd")
    for folder in (fresh, old, foreign, link):
        folder.mkdir()
    (foreign / "cli.lock").touch()
    os.chown(foreign, 65534, 65534)
    (link / "cli.lock").symlink_to(foreign / "cli.lock")
    os.utime(old, (0, 0))
    with scratch_folder(lambda _: None):
        pass
    assert {each.name[-1] for each in tmp_path.iterdir()} == {"a", "c", "d"}
