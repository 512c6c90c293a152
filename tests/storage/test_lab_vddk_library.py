"""The lab's libvixDiskLib keeps VMware's rules, so that breaking one is noticed here."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.esxi.process import EsxiProcess, start_esxi
from services.disk_agent.vddk.abi import CHUNK_SECTORS, BlockList
from services.disk_agent.vddk.disk import OpenDisk
from services.disk_agent.vddk.library import Library, VddkError
from services.disk_agent.vddk.settings import Settings
from tests.rigs.lab.esxi import BLOCK, PASSWORD, build_vddk

SIZE = 20 * BLOCK


@pytest.fixture
def esxi(tmp_path: Path) -> Iterator[EsxiProcess]:
    with start_esxi(tmp_path / "esxi") as esxi:
        esxi.client.add_disk("vm-1", 2000, "[ds] a/a.vmdk", SIZE)
        esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
        yield esxi


@pytest.fixture
def logged() -> list[str]:
    return []


@pytest.fixture
def library(esxi: EsxiProcess, tmp_path: Path, logged: list[str]) -> Iterator[Library]:
    path = build_vddk(tmp_path / "vddk", esxi) / "lib64" / "libvixDiskLib.so.8"
    library = Library(path, log=logged.append, warn=logged.append)
    library.initialise("")
    yield library
    library.function["Exit"]()


@pytest.fixture
def settings() -> Settings:
    settings = Settings()
    for key, value in {
        "server": "vc.test",
        "port": "8443",
        "user": "administrator@vsphere.local",
        "password": PASSWORD,
        "thumbprint": "12:34:ab:cd",
        "vm": "moref=vm-1",
        "snapshot": "snapshot-1",
        "file": "[ds] a/a.vmdk",
    }.items():
        settings.take(key, value)
    return settings


def test_it_can_be_initialised_once(library: Library, logged: list[str]) -> None:
    with pytest.raises(VddkError, match="initialized, or more than once"):
        library.initialise("")
    assert "VixDiskLib_InitEx was called twice" in logged


def test_a_library_without_configuration_does_not_start(esxi: EsxiProcess, tmp_path: Path) -> None:
    lib64 = build_vddk(tmp_path / "vddk", esxi) / "lib64"
    (lib64 / "lab.conf").unlink()
    library = Library(lib64 / "libvixDiskLib.so.8", log=print, warn=print)
    with pytest.raises(VddkError, match="A file was not found"):
        library.initialise("")


def test_opening_from_two_threads_at_once_is_refused(
    esxi: EsxiProcess, library: Library, settings: Settings, logged: list[str]
) -> None:
    results: list[str] = []
    barrier = threading.Barrier(8)

    def open_and_close() -> None:
        barrier.wait()
        try:
            for _ in range(5):
                OpenDisk(library, settings).close()
            results.append("opened")
        except VddkError as error:
            results.append(str(error))

    threads = [threading.Thread(target=open_and_close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any("handle is executing another function" in result for result in results)
    assert any("while another thread opens or closes" in line for line in logged)


@pytest.mark.parametrize(
    ("first", "count", "chunk"),
    [
        (1, CHUNK_SECTORS, CHUNK_SECTORS),
        (0, CHUNK_SECTORS + 1, CHUNK_SECTORS),
        (0, CHUNK_SECTORS, CHUNK_SECTORS // 2),
        (0, 3 * CHUNK_SECTORS, 3 * CHUNK_SECTORS),
        (0, 40 * CHUNK_SECTORS, CHUNK_SECTORS),
    ],
)
def test_allocated_blocks_are_asked_in_whole_chunks_inside_the_disk(
    library: Library, settings: Settings, first: int, count: int, chunk: int
) -> None:
    disk = OpenDisk(library, settings)
    blocks = ctypes.POINTER(BlockList)()
    with pytest.raises(VddkError, match=r"invalid|outside the range"):
        library.check(
            "QueryAllocatedBlocks", disk.handle, first, count, chunk, ctypes.byref(blocks)
        )
    disk.close()


def test_reading_past_the_end_is_refused(library: Library, settings: Settings) -> None:
    disk = OpenDisk(library, settings)
    with pytest.raises(VddkError, match="outside the range"):
        disk.read(memoryview(bytearray(BLOCK)), SIZE - 512)
    disk.close()


def test_allocation_unknown_is_no_obstacle(
    esxi: EsxiProcess, library: Library, settings: Settings
) -> None:
    del library.function["QueryAllocatedBlocks"]  # as in releases that lack it
    disk = OpenDisk(library, settings)
    assert not disk.knows_allocation
    assert disk.size_bytes == SIZE
    disk.close()


def test_a_dead_host_ends_reads_with_the_librarys_text(
    esxi: EsxiProcess, library: Library, settings: Settings
) -> None:
    disk = OpenDisk(library, settings)
    buffer = memoryview(bytearray(BLOCK))
    disk.read(buffer, 0)
    esxi.process.kill()
    esxi.process.wait()
    for _ in range(2):
        with pytest.raises(VddkError, match="The connection was lost"):
            disk.read(buffer, 0)
    disk.close()
    with pytest.raises(VddkError, match="Cannot connect to host"):
        OpenDisk(library, settings)
