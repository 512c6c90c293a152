"""The product's nbdkit plugin over libvixDiskLib, against the lab's library and disks."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbd
import pytest

from lab.esxi.client import DiskFault, EsxiClient
from lab.esxi.process import EsxiProcess, start_esxi
from tests.rigs.lab.esxi import (
    BLOCK,
    PASSWORD,
    PLUGIN,
    build_vddk,
    connect,
    content,
    extents,
    vddk_served,
    wait_until,
    writing,
)

SIZE = 100 * BLOCK + 512 * 3  # no whole number of chunks
LIVE = "vm-1/2000"


@dataclass(frozen=True)
class Host:
    esxi: EsxiProcess
    libdir: Path

    @property
    def client(self) -> EsxiClient:
        return self.esxi.client


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    directory = tmp_path_factory.mktemp("host")
    image = directory / "image"
    with image.open("wb") as stream:
        stream.write(os.urandom(3 * BLOCK))
        stream.seek(10 * BLOCK)
        stream.write(os.urandom(BLOCK) + bytes(BLOCK))
        stream.truncate(SIZE)
    with start_esxi(directory / "esxi") as esxi:
        esxi.client.add_disk("vm-1", 2000, "[ds] a/a.vmdk", SIZE, image)
        esxi.client.set_tracking("vm-1", 2000, True)
        esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
        yield Host(esxi, build_vddk(directory / "vddk", esxi))


@pytest.fixture(autouse=True)
def no_faults_left(host: Host) -> Iterator[None]:
    yield
    host.client.clear_faults()


@pytest.mark.parametrize("plugin", ["python", "native"])
def test_content_and_extents_are_the_snapshots_while_the_guest_writes(
    host: Host, tmp_path: Path, plugin: str
) -> None:
    view = connect(host.esxi.nbd_socket, f"{LIVE}@snapshot-1")
    log = tmp_path / "writes"
    with (
        writing(host.esxi, LIVE, [(0, 100 * BLOCK)], log),
        vddk_served(tmp_path, host.libdir, plugin=plugin) as served,
    ):
        wait_until(log, 20)
        disk = served.connect()
        assert disk.get_size() == SIZE
        assert disk.is_read_only()
        assert not disk.can_multi_conn()
        first = content(disk)
        wait_until(log, 60)
        assert content(disk) == first == content(view)
        assert extents(disk, 100 * BLOCK) == "AAA-------AA" + "-" * 88


def test_what_follows_the_last_whole_chunk_counts_as_data(host: Host, tmp_path: Path) -> None:
    # The library cannot be asked about it: nbdkit's own plugin (1.32) fails there.
    with vddk_served(tmp_path, host.libdir) as served:
        assert extents(served.connect())[-2:] == "-A"


def test_requests_of_any_alignment_work(host: Host, tmp_path: Path) -> None:
    with vddk_served(tmp_path, host.libdir) as served:
        disk = served.connect()
        whole = bytes(disk.pread(4 * BLOCK, 0))
        assert disk.get_block_size(nbd.SIZE_MINIMUM) == 512
        disk.set_strict_mode(0)
        for offset, length in [(1, 10), (511, 2), (512, 700), (3 * BLOCK - 7, 20)]:
            assert disk.pread(length, offset) == whole[offset : offset + length]


def test_large_requests_are_read_in_pieces(tmp_path: Path) -> None:
    size = 24 << 20
    image = tmp_path / "image"
    image.write_bytes(os.urandom(size))
    with start_esxi(tmp_path / "esxi") as esxi:
        esxi.client.add_disk("vm-1", 2000, "[ds] a/a.vmdk", size, image)
        esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
        libdir = build_vddk(tmp_path / "vddk", esxi)
        with vddk_served(tmp_path, libdir) as served:
            assert served.connect().pread(size, 0) == image.read_bytes()


@pytest.mark.parametrize("plugin", ["python", "native"])
@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"server": "other.test"}, "Cannot connect to host"),
        ({"port": "443"}, "Cannot connect to host"),
        ({"thumbprint": "00:00"}, "thumbprint of the server's certificate does not match"),
        ({"user": "root"}, "Cannot complete login due to an incorrect user name or password"),
        ({"password": "nope"}, "Cannot complete login due to an incorrect user name or password"),
        ({"vm": "moref=vm-7"}, "The virtual machine cannot be found"),
        ({"snapshot": "snapshot-7"}, "The snapshot does not exist"),
        ({"file": "[ds] a/b.vmdk"}, "A file was not found"),
        ({"snapshot": ""}, "You do not have access rights to this file"),
        ({"transports": "san:hotadd"}, "The operation is not supported"),
    ],
)
def test_refusals_are_reported_with_the_librarys_text(
    host: Host, tmp_path: Path, wrong: dict[str, str], expected: str, plugin: str
) -> None:
    with vddk_served(tmp_path, host.libdir, plugin=plugin, **wrong) as served:
        with pytest.raises(nbd.Error, match="no export named"):
            connect(served.socket)
        last = [line for line in served.stderr().splitlines() if line][-1]
        assert expected in last
        assert PASSWORD not in served.stderr()


def test_a_disk_of_a_stopped_vm_opens_without_a_snapshot(host: Host, tmp_path: Path) -> None:
    host.client.set_power("vm-1", on=False)
    try:
        with vddk_served(tmp_path, host.libdir, snapshot="") as served:
            live = connect(host.esxi.nbd_socket, LIVE)
            assert content(served.connect()) == content(live)
    finally:
        host.client.set_power("vm-1", on=True)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"snaphot": "x"}, "unknown parameter snaphot=; did you mean snapshot=?"),
        ({"single_link": "perhaps"}, "single-link=perhaps: it is true or false"),
        ({"compression": "lz4"}, "compression=lz4: it is one of none, zlib, fastlz, skipz"),
        ({"nfchostport": "nine"}, "a port is a number from 1 to 65535"),
        ({"vm": "", "file": ""}, "missing parameters: file=, vm="),
        ({"libdir": "/nowhere"}, "in /nowhere/lib64 or /nowhere"),
    ],
)
def test_wrong_parameters_stop_nbdkit_at_once(
    host: Host, tmp_path: Path, parameters: dict[str, str], expected: str
) -> None:
    with vddk_served(tmp_path, host.libdir, **parameters) as served:
        assert served.process.wait(10) != 0
        assert expected in served.stderr()
        assert "Traceback" not in served.stderr()


def test_the_native_plugins_other_parameters_are_accepted(host: Host, tmp_path: Path) -> None:
    config, secret = tmp_path / "vddk.conf", tmp_path / "password"
    config.write_text("vixDiskLib.nfcAio.Session.BufSizeIn64KB=16\n")
    secret.write_text(PASSWORD + "\n")
    with vddk_served(
        tmp_path,
        host.libdir,
        password_file=str(secret),
        config=str(config),
        nfchostport="902",
        compression="fastlz",
        unbuffered="true",
        single_link="no",
    ) as served:
        assert served.connect().get_size() == SIZE


def test_a_password_file_that_is_not_there_is_named(host: Host, tmp_path: Path) -> None:
    with vddk_served(tmp_path, host.libdir, password_file=f"{tmp_path}/none") as served:
        assert served.process.wait(10) != 0
        assert f"password=+{tmp_path}/none: cannot read it" in served.stderr()


def test_a_read_error_is_one_requests_problem(host: Host, tmp_path: Path) -> None:
    with vddk_served(tmp_path, host.libdir) as served:
        disk = served.connect()
        host.client.inject_fault(DiskFault("read_error", offset=2 * BLOCK, length=512, count=1))
        assert disk.pread(BLOCK, 0)
        with pytest.raises(nbd.Error) as caught:
            disk.pread(BLOCK, 2 * BLOCK)
        assert caught.value.errno == "EIO"
        assert "A file access error occurred" in served.stderr()
        assert len(disk.pread(BLOCK, 2 * BLOCK)) == BLOCK


def test_a_bad_range_stays_bad_until_it_is_repaired(host: Host, tmp_path: Path) -> None:
    fault = DiskFault("read_error", vm="vm-1", key=2000, offset=2 * BLOCK, length=BLOCK)
    number = host.client.inject_fault(fault)
    with vddk_served(tmp_path, host.libdir) as served:
        disk = served.connect()
        for _ in range(3):
            with pytest.raises(nbd.Error):
                disk.pread(4 * BLOCK, 0)
            assert disk.pread(BLOCK, 3 * BLOCK)
        assert len(connect(host.esxi.nbd_socket, LIVE).pread(4 * BLOCK, 0)) == 4 * BLOCK
        host.client.clear_faults(number)
        assert len(disk.pread(4 * BLOCK, 0)) == 4 * BLOCK


def test_a_lost_connection_needs_a_new_open(host: Host, tmp_path: Path) -> None:
    with vddk_served(tmp_path, host.libdir) as served:
        disk = served.connect()
        host.client.inject_fault(DiskFault("disconnect", count=1))
        for _ in range(2):
            with pytest.raises(nbd.Error) as caught:
                disk.pread(BLOCK, 0)
            assert caught.value.errno == "EIO"
        assert "The connection was lost" in served.stderr()
        assert len(served.connect().pread(BLOCK, 0)) == BLOCK


def test_a_busy_host_refuses_an_open_and_takes_the_next(host: Host, tmp_path: Path) -> None:
    host.client.inject_fault(DiskFault("open_busy", vm="vm-1", key=2000, count=1))
    with vddk_served(tmp_path, host.libdir) as served:
        with pytest.raises(nbd.Error):
            connect(served.socket)
        assert "Resource temporarily unavailable" in served.stderr()
        assert served.connect().get_size() == SIZE


def test_requests_in_flight_overlap_on_one_connection(host: Host, tmp_path: Path) -> None:
    host.client.inject_fault(DiskFault("latency", milliseconds=100))
    with vddk_served(tmp_path, host.libdir) as served:
        disk = served.connect()
        buffers = [nbd.Buffer(BLOCK) for _ in range(8)]
        begin = time.monotonic()
        for number, buffer in enumerate(buffers):
            disk.aio_pread(buffer, number * BLOCK, lambda error: 1 if error.value == 0 else -1)
        while disk.aio_in_flight():
            disk.poll(-1)
        assert time.monotonic() - begin < 0.5  # one after the other would be 0.8


def test_the_password_is_on_no_command_line(host: Host, tmp_path: Path) -> None:
    with vddk_served(tmp_path, host.libdir) as served:
        cmdline = Path(f"/proc/{served.process.pid}/cmdline").read_bytes()
        assert PASSWORD.encode() not in cmdline


def test_dump_plugin_tells_what_it_can(host: Host) -> None:
    done = subprocess.run(
        ["nbdkit", "python", f"script={PLUGIN}", f"libdir={host.libdir}", "--dump-plugin"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "vddk_sonames=libvixDiskLib.so.9 libvixDiskLib.so.8" in done.stdout
    assert "thread_model=parallel" in done.stdout
