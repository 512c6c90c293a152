"""Whole transfers from the lab's ESXi through nbdkit and the VDDK plugin into QCOW2."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.esxi.client import DiskFault
from lab.esxi.process import EsxiProcess, start_esxi
from services.disk_agent.engine.ranges import Range
from services.disk_agent.worker.modes import Mode
from services.disk_agent.worker.order import TransferOrder, VddkSpec, WorkerOrder
from services.disk_agent.worker.range_sets import RangeSets
from tests.rigs.disk.transfer import BLOCK, assert_identical, create_image, write_disk
from tests.rigs.lab.esxi import PASSWORD, build_vddk

LETTERS = "AAAA----BBBBC0-D" * 8


@dataclass
class Host:
    """An ESXi with one disk, and the VDDK for it."""

    folder: Path
    esxi: EsxiProcess
    libdir: Path
    source: Path
    size: int

    def spec(self, **changes: str) -> VddkSpec:
        fields = {
            "server": "vc.test",
            "user": "administrator@vsphere.local",
            "thumbprint": "12:34:AB:CD",
            "library_dir": str(self.libdir),
            "vm_moref": "vm-1",
            "snapshot_moref": "snapshot-1",
            "disk_path": "[ds] a/a.vmdk",
            "transports": "nbdssl:nbd",
            **changes,
        }
        return VddkSpec(port=8443, **fields)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("h")
    source = folder / "source.raw"
    size = write_disk(source, LETTERS)
    with start_esxi(folder / "esxi") as esxi:
        esxi.client.add_disk("vm-1", 2000, "[ds] a/a.vmdk", size, source)
        esxi.client.set_tracking("vm-1", 2000, True)
        esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
        yield Host(folder, esxi, build_vddk(folder / "vddk", esxi), source, size)


@dataclass
class Copy:
    """The events and the result of a worker process."""

    end: dict[str, Any]
    notices: list[str]
    image: Path
    stderr: str


def copy(
    host: Host,
    folder: Path,
    spec: VddkSpec,
    password: str = PASSWORD,
    *,
    mode: Mode = Mode.FULL,
    ranges: list[Range] | None = None,
) -> Copy:
    """Run one worker process to its end; a full copy goes into a new image."""
    image = folder / "disk.qcow2"
    if mode is Mode.FULL:
        create_image(image, host.size)
    if ranges is not None:
        RangeSets(folder).put("changed", ranges, host.size)
    order = WorkerOrder(
        transfer=TransferOrder(
            transfer_id="t",
            mode=mode,
            source=spec,
            target_path=str(image),
            capacity_bytes=host.size,
            disk_id="vm-1/2000",
            snapshot_id="snapshot-1",
            pass_number=0 if ranges is None else 1,
            chunk_bytes=4 * BLOCK,
        ),
        map_path=str(folder / "disk.map"),
        ranges_path="" if ranges is None else str(RangeSets(folder).path("changed")),
        runtime_dir=str(folder),
    )
    message = {"order": order.to_wire(), "password": password, "parent_pid": os.getpid()}
    with subprocess.Popen(
        [sys.executable, "-m", "services.disk_agent.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stderr is not None
        worker.stdin.write(json.dumps(message) + "\n")
        worker.stdin.flush()
        events = [json.loads(line) for line in worker.stdout]
        stderr = worker.stderr.read()
    notices = [event["message"] for event in events if event["event"] == "notice"]
    return Copy(events[-1], notices, image, stderr)


def test_copy_is_identical_and_reads_only_what_is_allocated(host: Host, tmp_path: Path) -> None:
    done = copy(host, tmp_path, host.spec())
    assert done.end["failure"] is None
    assert_identical(host.source, done.image)
    data = sum(letter in "ABCD" for letter in LETTERS) * BLOCK
    assert data <= done.end["progress"]["read_bytes"] <= data + 16 * BLOCK
    assert [path.name for path in tmp_path.iterdir() if path.suffix in (".sock", ".pid")] == []
    assert PASSWORD not in done.stderr


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"thumbprint": "00:00"}, "VDDK_CERTIFICATE"),
        ({"user": "root"}, "VDDK_LOGIN"),
        ({"snapshot_moref": "snapshot-7"}, "VDDK_DISK_NOT_FOUND"),
        ({"disk_path": "[ds] a/b.vmdk"}, "VDDK_DISK_NOT_FOUND"),
        ({"transports": "san:hotadd"}, "VDDK_TRANSPORT"),
        ({"library_dir": "/nowhere"}, "VDDK_NOT_FOUND"),
        ({"library_dir": ""}, "VDDK_NOT_CONFIGURED"),
    ],
)
def test_permanent_refusals_end_at_once_with_a_next_step(
    host: Host, tmp_path: Path, wrong: dict[str, str], reason: str
) -> None:
    failure = copy(host, tmp_path, host.spec(**wrong)).end["failure"]
    assert failure["reason"] == reason, failure
    assert not failure["retryable"]
    assert failure["hint"]
    assert PASSWORD not in json.dumps(failure)


def test_a_wrong_password_is_reported_and_not_shown(host: Host, tmp_path: Path) -> None:
    failure = copy(host, tmp_path, host.spec(), password="not-the-password").end["failure"]
    assert failure["reason"] == "VDDK_LOGIN"
    assert "not-the-password" not in json.dumps(failure)


def test_chunks_without_digest_are_compared_with_a_stopped_machines_disk(
    host: Host, tmp_path: Path
) -> None:
    """After the final pass there is no snapshot, and the machine is off."""
    assert copy(host, tmp_path, host.spec()).end["failure"] is None
    # 4 KiB of the chunk at block 32 are written, so that the map has no digest of the chunk.
    part = Range(33 * BLOCK, 4096)
    assert copy(host, tmp_path, host.spec(), mode=Mode.RANGES, ranges=[part]).end["failure"] is None
    live = host.spec(snapshot_moref="")
    running = copy(host, tmp_path, live, mode=Mode.VERIFY_TARGET).end
    assert running["failure"]["reason"] == "VDDK_LOGIN"
    host.esxi.client.set_power("vm-1", on=False)
    try:
        good = copy(host, tmp_path, live, mode=Mode.VERIFY_TARGET).end
        assert good["failure"] is None
        progress = good["progress"]
        assert (progress["verified_bytes"], progress["unverified_bytes"]) == (host.size, 0)
        qemu_io = ["qemu-io", "-f", "qcow2", "-c", f"write -P 0x5a {34 * BLOCK} 512"]
        subprocess.run([*qemu_io, str(tmp_path / "disk.qcow2")], check=True, capture_output=True)
        failure = copy(host, tmp_path, live, mode=Mode.VERIFY_TARGET).end["failure"]
    finally:
        host.esxi.client.set_power("vm-1", on=True)
    assert failure["reason"] == "CONTENT_MISMATCH"
    expected = (
        f"disk vm-1/2000: 1 of its chunks .* offset {32 * BLOCK}, {4 * BLOCK} bytes: expected "
    )
    assert re.search(expected + "[0-9a-f]{32}, found [0-9a-f]{32}", failure["message"])


def test_read_error_of_the_host_is_survived(host: Host, tmp_path: Path) -> None:
    host.esxi.client.inject_fault(DiskFault("read_error", offset=2 * BLOCK, length=512, count=2))
    done = copy(host, tmp_path, host.spec())
    assert done.end["failure"] is None
    assert_identical(host.source, done.image)
