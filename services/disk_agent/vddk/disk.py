"""One disk opened through libvixDiskLib."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from queue import SimpleQueue

from services.disk_agent.vddk.abi import (
    CHUNK_BYTES,
    CHUNK_SECTORS,
    CREDENTIALS_UID,
    LARGEST_READ_BYTES,
    MAX_CHUNKS,
    SECTOR_BYTES,
    Block,
    BlockList,
    ConnectParams,
    Info,
)
from services.disk_agent.vddk.library import Library, VddkError
from services.disk_agent.vddk.settings import Settings


class OpenDisk:
    """A connection to vCenter or an ESXi host, and a disk opened through it for reading."""

    def __init__(self, library: Library, settings: Settings) -> None:
        """Raises VddkError with the library's text and number."""
        self._library = library
        self._connection = ctypes.c_void_p()
        self.handle = ctypes.c_void_p()
        self._connect(settings)
        try:
            self._open(settings)
            self.size_bytes = self._capacity()
            self.knows_allocation = self._probe_allocation()
        except BaseException:
            self.close()
            raise
        self.transport = library.function["GetTransportMode"](self.handle).decode()

    def _connect(self, settings: Settings) -> None:
        function = self._library.function
        allocated = "AllocateConnectParams" in function
        pointer = (
            function["AllocateConnectParams"]() if allocated else ctypes.pointer(ConnectParams())
        )
        params = pointer.contents
        params.vmx_spec = _bytes(settings.text["vm"])
        params.server_name = _bytes(settings.text["server"])
        params.thumbprint = _bytes(settings.text["thumbprint"])
        params.credentials_type = CREDENTIALS_UID
        params.user_name = _bytes(settings.text["user"])
        params.password = _bytes(settings.text["password"])
        params.port = settings.number["port"]
        params.nfc_host_port = settings.number["nfchostport"]
        try:
            self._library.check(
                "ConnectEx",
                pointer,
                b"\1",  # read-only
                _bytes(settings.text["snapshot"]),
                _bytes(settings.text["transports"]),
                ctypes.byref(self._connection),
            )
        finally:
            if allocated:
                function["FreeConnectParams"](pointer)

    def _open(self, settings: Settings) -> None:
        name = settings.text["file"]
        try:
            self._library.check(
                "Open",
                self._connection,
                _bytes(name),
                settings.open_flags,
                ctypes.byref(self.handle),
            )
        except VddkError as error:
            raise VddkError(
                f"{error}: {name}", function=error.function, number=error.number
            ) from None

    def _capacity(self) -> int:
        info = ctypes.POINTER(Info)()
        self._library.check("GetInfo", self.handle, ctypes.byref(info))
        sectors: int = info.contents.capacity_sectors
        self._library.function["FreeInfo"](info)
        return sectors * SECTOR_BYTES

    def _probe_allocation(self) -> bool:
        """Whether the library and the host can report allocated blocks, tested with a query."""
        if "QueryAllocatedBlocks" not in self._library.function:
            return False
        if self.size_bytes < CHUNK_BYTES:
            return False
        try:
            self._query(0, 1)
        except VddkError as error:
            self._library.log(f"allocated blocks cannot be queried: {error}")
            return False
        return True

    def close(self) -> None:
        """Close the disk and the connection."""
        function = self._library.function
        if self.handle:
            function["Close"](self.handle)
        function["Disconnect"](self._connection)

    def read(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer. Raises VddkError."""
        begin = offset // SECTOR_BYTES
        end = -(-(offset + len(buffer)) // SECTOR_BYTES)
        if offset % SECTOR_BYTES == 0 and len(buffer) % SECTOR_BYTES == 0:
            self._read_sectors(buffer, begin)
            return
        bounce = memoryview(bytearray((end - begin) * SECTOR_BYTES))
        self._read_sectors(bounce, begin)
        skip = offset - begin * SECTOR_BYTES
        buffer[:] = bounce[skip : skip + len(buffer)]

    def _read_sectors(self, buffer: memoryview, sector: int) -> None:
        done: SimpleQueue[int] = SimpleQueue()
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        pieces = range(0, len(buffer), LARGEST_READ_BYTES)
        for start in pieces:
            count = min(LARGEST_READ_BYTES, len(buffer) - start) // SECTOR_BYTES
            at = sector + start // SECTOR_BYTES
            self._library.start_read(self.handle, at, count, address + start, done)
        # Wait for all reads, also after an error: until then the library writes into the buffer.
        errors = [error for error in [done.get() for _ in pieces] if error]
        if errors:
            raise self._library.error("ReadAsync", errors[0], f" at byte {sector * SECTOR_BYTES}")

    def extents(self, count: int, offset: int) -> Iterator[tuple[int, int, bool]]:
        """(offset, length, allocated) of areas that cover the range, at multiples of 64 KiB.

        Raises VddkError. Bytes after the last whole 64 KiB cannot be queried and count as data.
        """
        chunks = self.size_bytes // CHUNK_BYTES
        first = min(offset // CHUNK_BYTES, chunks)
        end = min(-(-(offset + count) // CHUNK_BYTES), chunks)
        for start in range(first, end, MAX_CHUNKS):
            stop = min(start + MAX_CHUNKS, end)
            position = start * CHUNK_BYTES
            for block_offset, length in self._query(start, stop - start):
                if block_offset > position:
                    yield position, block_offset - position, False
                yield block_offset, length, True
                position = block_offset + length
            if position < stop * CHUNK_BYTES:
                yield position, stop * CHUNK_BYTES - position, False
        if offset + count > chunks * CHUNK_BYTES:
            yield chunks * CHUNK_BYTES, self.size_bytes - chunks * CHUNK_BYTES, True

    def _query(self, first: int, count: int) -> list[tuple[int, int]]:
        """The allocated areas, (offset, length) in bytes, of a range given in chunks of 64 KiB."""
        blocks = ctypes.POINTER(BlockList)()
        self._library.check(
            "QueryAllocatedBlocks",
            self.handle,
            *(first * CHUNK_SECTORS, count * CHUNK_SECTORS, CHUNK_SECTORS),
            ctypes.byref(blocks),
        )
        try:
            total = blocks.contents.count
            address = ctypes.addressof(blocks.contents) + BlockList.blocks.offset
            found = (Block * total).from_address(address)
            return [(b.offset * SECTOR_BYTES, b.length * SECTOR_BYTES) for b in found]
        finally:
            self._library.function["FreeBlockList"](blocks)


def _bytes(text: str) -> bytes | None:
    return text.encode() or None
