"""The pages of a chunk map's file: read when needed, kept in memory, written by checkpoints."""

import os
from collections import OrderedDict

from services.disk_agent.chunk_map.file import (
    CHECKSUM_BYTES,
    PAGE_BYTES,
    page_checksum,
    page_offset,
)

# Clean pages kept in memory; dirty ones stay until they are written.
_CACHED_PAGES = 512


class MapPages:
    """Pages by number. A page that was never written, or is damaged, reads as zeroes."""

    def __init__(self, fd: int, identity: int) -> None:
        self._fd = fd
        self._identity = identity
        self._clean: OrderedDict[int, bytearray] = OrderedDict()
        self._dirty: dict[int, bytearray] = {}
        # The numbers of the pages that were found damaged.
        self.damaged: set[int] = set()

    @property
    def dirty(self) -> int:
        """The number of pages that wait to be written."""
        return len(self._dirty)

    def read(self, number: int) -> bytearray:
        """A page; the caller must not change it."""
        page = self._dirty.get(number) or self._clean.get(number)
        if page is not None:
            return page
        page = bytearray(os.pread(self._fd, PAGE_BYTES, page_offset(number)))
        if not any(page):
            page = bytearray(PAGE_BYTES)
        elif len(page) < PAGE_BYTES or page[:CHECKSUM_BYTES] != page_checksum(
            page[CHECKSUM_BYTES:], self._identity, number
        ):
            self.damaged.add(number)
            page = bytearray(PAGE_BYTES)
        self._clean[number] = page
        if len(self._clean) > _CACHED_PAGES:
            self._clean.popitem(last=False)
        return page

    def change(self, number: int) -> bytearray:
        """A page that the caller changes; `write` writes it."""
        page = self._dirty.get(number)
        if page is None:
            page = self._dirty[number] = self.read(number)
            self._clean.pop(number, None)
        return page

    def write(self) -> None:
        """Write the changed pages; they are durable only after the caller's fsync."""
        for number, page in sorted(self._dirty.items()):
            body = page[CHECKSUM_BYTES:]
            page[:CHECKSUM_BYTES] = page_checksum(body, self._identity, number)
            os.pwrite(self._fd, page, page_offset(number))

    def written(self) -> None:
        """To be called after that fsync: the written pages may now be dropped from memory."""
        self._clean.update(self._dirty)
        self._dirty.clear()
        while len(self._clean) > _CACHED_PAGES:
            self._clean.popitem(last=False)
