"""Sparse files: punching holes, and copying only the data between them."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator

_FALLOC_FL_KEEP_SIZE = 1  # linux/falloc.h
_FALLOC_FL_PUNCH_HOLE = 2

_COPY_BYTES = 8 * 1024 * 1024

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Make [offset, offset + length) a hole, which frees its space. Raises OSError.

    Calls libc, because Python has no fallocate with flags.
    """
    mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    if _libc.fallocate(fd, mode, offset, length):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def data_extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the ranges below ``size`` that are not holes."""
    offset = 0
    while offset < size:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole up to the end
                return
            raise
        if start >= size:
            return
        end = min(size, os.lseek(fd, start, os.SEEK_HOLE))
        yield start, end - start
        offset = end


def copy_range(source: int, target: int, offset: int, length: int) -> None:
    """Copy a range between files at the same offset, in the kernel. Raises OSError (EIO when the
    source ends early)."""
    end = offset + length
    while offset < end:
        copied = os.copy_file_range(source, target, min(_COPY_BYTES, end - offset), offset, offset)
        if copied == 0:
            raise OSError(errno.EIO, "source file ends inside the range to copy")
        offset += copied
