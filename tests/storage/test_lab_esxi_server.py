"""The lab's ESXi side as its clients meet it: a real nbdkit, guests, readers, crashes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbd
import pytest

from lab.esxi.client import EsxiError
from lab.esxi.process import EsxiProcess, start_esxi
from lab.esxi.write_log import FINAL_MARK, read_log, replay
from tests.rigs.lab.esxi import BLOCK, connect, content, extents, wait_until, writing

SIZE = 64 * BLOCK
LIVE = "vm-1/2000"
KILLS = 30
# Asks for the whole disk at once and takes no reply; one alone is more than a unix socket holds.
READER = f"""
import select, sys, time, nbd
handle = nbd.NBD()
handle.set_export_name(sys.argv[2])
handle.connect_unix(sys.argv[1])
buffers = [nbd.Buffer({4 * BLOCK}) for _ in range({SIZE // BLOCK // 4})]
for number, buffer in enumerate(buffers):
    handle.aio_pread(buffer, number * {4 * BLOCK})
select.select([handle.aio_get_fd()], [], [])
print(flush=True)
time.sleep(60)
"""


@pytest.fixture
def esxi(tmp_path: Path) -> Iterator[EsxiProcess]:
    with start_esxi(tmp_path / "esxi") as process:
        process.client.add_disk("vm-1", 2000, "[ds] a/a.vmdk", SIZE)
        process.client.set_tracking("vm-1", 2000, True)
        yield process


def test_a_snapshot_stays_as_it_was_while_the_guest_writes(
    esxi: EsxiProcess, tmp_path: Path
) -> None:
    log = tmp_path / "writes"
    with writing(esxi, LIVE, [(0, SIZE)], log):
        wait_until(log, 20)
        esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
        frozen = connect(esxi.nbd_socket, f"{LIVE}@snapshot-1")
        before = content(frozen)
        wait_until(log, len(read_log(log)) + 40)
        assert content(frozen) == before
    assert content(connect(esxi.nbd_socket, LIVE)) != before


def test_the_log_tells_the_end_state_and_what_came_after_the_shutdown_order(
    esxi: EsxiProcess, tmp_path: Path
) -> None:
    log, areas = tmp_path / "writes", [(4 * BLOCK, 8 * BLOCK), (40 * BLOCK, 4096)]
    with writing(esxi, LIVE, areas, log) as guest:
        wait_until(log, 30)
        guest.terminate()
        assert guest.wait() == 0
    entries = read_log(log)
    live = connect(esxi.nbd_socket, LIVE)
    with (tmp_path / "image").open("w+b") as image:
        image.truncate(SIZE)
        assert replay(entries, LIVE, image) == len(entries)
        image.seek(0)
        assert content(live) == image.read()
    assert entries[-1].final
    assert not entries[0].final
    for start, _ in areas:
        assert live.pread(len(FINAL_MARK), start) == FINAL_MARK
    # A restarted guest continues the numbers.
    with writing(esxi, LIVE, areas, log) as guest:
        wait_until(log, len(entries) + 1)
    assert [entry.seq for entry in read_log(log)] == list(range(1, len(read_log(log)) + 1))


def test_writes_outside_the_areas_never_happen(esxi: EsxiProcess, tmp_path: Path) -> None:
    log = tmp_path / "writes"
    with writing(esxi, LIVE, [(16 * BLOCK, 2 * BLOCK)], log):
        wait_until(log, 40)
    found = extents(connect(esxi.nbd_socket, LIVE))
    assert "A" in found[16:18]
    assert set(found[:16] + found[18:]) == {"-"}


def test_zeroes_stay_allocated_and_trims_make_holes(esxi: EsxiProcess) -> None:
    live = connect(esxi.nbd_socket, LIVE)
    live.pwrite(b"x" * (4 * BLOCK), 0)
    live.zero(BLOCK, 0)
    live.trim(BLOCK, BLOCK)
    live.zero(BLOCK, 8 * BLOCK)
    assert extents(live) == "A-AA" + "-" * 60
    assert live.pread(2 * BLOCK, 0) == bytes(2 * BLOCK)


def test_one_writer_many_readers(esxi: EsxiProcess) -> None:
    first, second = connect(esxi.nbd_socket, LIVE), connect(esxi.nbd_socket, LIVE)
    first.pwrite(b"a" * 512, 0)
    with pytest.raises(nbd.Error, match="not permitted"):
        second.pwrite(b"b" * 512, 0)
    assert second.pread(512, 0) == b"a" * 512
    first.shutdown()
    deadline = time.monotonic() + 10
    while esxi.client.disks()[0].has_writer:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second.pwrite(b"b" * 512, 0)


def test_power_off_ends_writing_but_not_flushing_or_reading(esxi: EsxiProcess) -> None:
    guest = connect(esxi.nbd_socket, LIVE)
    guest.pwrite(b"a" * 512, 0)
    esxi.client.set_power("vm-1", on=False)
    with pytest.raises(nbd.Error) as caught:
        guest.pwrite(b"b" * 512, 0)
    assert caught.value.errno == "EIO"
    guest.flush()
    late = connect(esxi.nbd_socket, LIVE)
    assert late.is_read_only()
    assert late.pread(512, 0) == b"a" * 512
    esxi.client.set_power("vm-1", on=True)
    assert not connect(esxi.nbd_socket, LIVE).is_read_only()


def test_a_removed_snapshot_ends_its_readers(esxi: EsxiProcess) -> None:
    esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    reader = connect(esxi.nbd_socket, f"{LIVE}@snapshot-1")
    esxi.client.remove_snapshot("vm-1", "snapshot-1")
    with pytest.raises(nbd.Error) as caught:
        reader.pread(512, 0)
    assert caught.value.errno == "ESHUTDOWN"
    with pytest.raises(nbd.Error, match="no export named"):
        connect(esxi.nbd_socket, f"{LIVE}@snapshot-1")


def test_sigkill_in_the_middle_of_writing_loses_no_change(tmp_path: Path) -> None:
    directory, log = tmp_path / "esxi", tmp_path / "writes"
    with start_esxi(directory) as esxi:
        esxi.client.add_disk("vm-1", 2000, "[ds] a/a.vmdk", SIZE)
        esxi.client.set_tracking("vm-1", 2000, True)
        with writing(esxi, LIVE, [(0, 32 * BLOCK)], log, rate=40.0):
            wait_until(log, 20)
            made = esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
            before = content(connect(esxi.nbd_socket, f"{LIVE}@snapshot-1"))
            wait_until(log, len(read_log(log)) + 30)
            esxi.process.send_signal(signal.SIGKILL)
            esxi.process.wait()
    change_id = made[2000].change_id
    assert change_id is not None
    with start_esxi(directory) as esxi:
        esxi.client.create_snapshot("vm-1", "snapshot-2", [2000])
        assert content(connect(esxi.nbd_socket, f"{LIVE}@snapshot-1")) == before
        after = content(connect(esxi.nbd_socket, f"{LIVE}@snapshot-2"))
        changed = esxi.client.changed_areas("vm-1", "snapshot-2", 2000, change_id, 0)
        synced = bytearray(before)
        for start, length in changed.areas:
            synced[start : start + length] = after[start : start + length]
        assert synced == after
        assert 0 < sum(length for _, length in changed.areas) <= 32 * BLOCK


def test_qemu_uses_a_disk_as_its_own(esxi: EsxiProcess) -> None:
    image = f"nbd+unix:///{LIVE}?socket={esxi.nbd_socket}"
    orders = ["write -P 7 0 192k", "write -z 64k 64k", "discard 128k 64k", "write -f -P 9 1M 4k"]
    subprocess.run(
        ["qemu-io", "-f", "raw", "-d", "unmap", *(f"-c{order}" for order in orders), image],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    live = connect(esxi.nbd_socket, LIVE)
    assert extents(live)[:17] == "AA--" + "-" * 12 + "A"
    assert live.pread(3 * BLOCK, 0) == b"\x07" * BLOCK + bytes(2 * BLOCK)
    assert live.pread(4096, 1 << 20) == b"\x09" * 4096


def test_a_snapshot_of_several_disks_is_one_instant(esxi: EsxiProcess) -> None:
    esxi.client.add_disk("vm-1", 2001, "[ds] a/b.vmdk", 2 * SIZE)
    made = esxi.client.create_snapshot("vm-1", "snapshot-1", [2000, 2001])
    assert made[2000].change_id is not None
    assert made[2001].change_id is None
    assert made[2001].capacity_bytes == 2 * SIZE
    with pytest.raises(EsxiError, match="exists"):
        esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    with pytest.raises(EsxiError) as caught:
        esxi.client.create_snapshot("vm-1", "snapshot-2", [2000, 7])
    assert caught.value.kind == "not_found"
    assert {disk.snapshots for disk in esxi.client.disks()} == {("snapshot-1",)}


def test_readers_killed_with_replies_to_come_harm_nobody_else(esxi: EsxiProcess) -> None:
    guest = connect(esxi.nbd_socket, LIVE)
    guest.pwrite(b"a" * SIZE, 0)
    esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    before = _open_files(esxi)
    for number in range(KILLS):
        _kill_a_reader(esxi.nbd_socket, f"{LIVE}@snapshot-1")
        guest.pwrite(bytes([number]) * BLOCK, 0)
    assert esxi.process.poll() is None
    assert guest.pread(BLOCK, 0) == bytes([number]) * BLOCK
    assert content(connect(esxi.nbd_socket, f"{LIVE}@snapshot-1")) == b"a" * SIZE
    deadline = time.monotonic() + 10
    while _open_files(esxi) > before:
        assert time.monotonic() < deadline, "connections of killed readers stay"
        time.sleep(0.01)


def _kill_a_reader(socket: Path, export: str) -> None:
    command = [sys.executable, "-c", READER, str(socket), export]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"\n"
        time.sleep(0.05)  # more replies get ready
        reader.kill()


def _open_files(esxi: EsxiProcess) -> int:
    return len(os.listdir(f"/proc/{esxi.process.pid}/fd"))
