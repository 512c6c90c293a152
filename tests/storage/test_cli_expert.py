"""The expert commands on a real image: VDDK to QCOW2 by hand, then the changes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.esxi.process import EsxiProcess, start_esxi
from tests.lab_esxi_rig import BLOCK, PASSWORD, build_vddk, connect, content

ROOT = Path(__file__).parents[2]
SIZE = 64 * BLOCK
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
        self, command: str, section: str, *, enabled: bool = True, **job: Any
    ) -> subprocess.CompletedProcess[str]:
        disk = {"disk_path": DISK, "target_qcow2": "a.qcow2", "disk_size_bytes": SIZE}
        document = {"vddk": self.vddk, section: {**disk, **job}}
        (self.folder / "expert.yaml").write_text(yaml.safe_dump(document))
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}",
            "V2C_ENABLE_EXPERT_COMMANDS": "1" if enabled else "",
        }
        return subprocess.run(
            [sys.executable, "-m", "cli", command, "--spec", "expert.yaml"],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
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
    ],
)
def test_mistakes_name_the_field(expert: Expert, job: dict[str, Any], told: str) -> None:
    refused = expert.v2c("delta-sync", "delta_sync", **job)

    assert refused.returncode in {1, 2}
    assert told in refused.stderr


def test_without_the_word_they_do_not_exist(expert: Expert) -> None:
    refused = expert.v2c("base-copy", "base_copy", enabled=False, snapshot_moref="s")

    assert refused.returncode == 2
    assert "No such command" in refused.stderr
