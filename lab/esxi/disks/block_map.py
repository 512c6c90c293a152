"""Per-block numbers in a memory-mapped file. An assignment is in the page cache at once, without
a system call, so it survives SIGKILL of the process, but not a failure of the host."""

from __future__ import annotations

import mmap
import os
from array import array
from pathlib import Path
from typing import Literal


class BlockMap:
    """A fixed-length array of unsigned numbers, one per block, all 0 in a new file.

    ``width`` is "B" (8 bits) or "I" (32 bits). Not thread-safe: the owning disk's lock guards it.
    """

    def __init__(self, path: Path, blocks: int, width: Literal["B", "I"]) -> None:
        self._width: Literal["B", "I"] = width
        size = max(1, blocks) * array(width).itemsize
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size < size:
                os.truncate(fd, size)
            self._mmap = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self.values = memoryview(self._mmap).cast(width)
        """The numbers; assign to a slice through fill()."""

    def fill(self, first: int, end: int, value: int) -> None:
        """Set blocks [first, end)."""
        self.values[first:end] = memoryview(array(self._width, [value]) * (end - first))

    def copy_from(self, other: BlockMap, first: int, end: int) -> None:
        """Copy the other map's numbers of blocks [first, end)."""
        self.values[first:end] = other.values[first:end]

    def close(self) -> None:
        """Unmap; the numbers stay in the file."""
        self.values.release()
        self._mmap.close()
