"""One NBD connection of the engine: requests are asynchronous, completions are a queue.

Completed requests are polled for after each step of the connection: libnbd's callbacks into Python
cost more, and run with the handle's lock held.
"""

import contextlib
import errno
import os
import socket
from collections import deque
from ctypes import c_int
from enum import Enum
from typing import NamedTuple

import nbd

from services.disk_agent.transfer_failures import (
    SourceFailed,
    SourceLost,
    SourceUnusable,
    TargetFailed,
    TargetFull,
    TargetUnusable,
    TransferFailure,
)

# A block status request carries a 32-bit length; two GiB steps measured as cheap as any.
_STATUS_LIMIT_BYTES = 2 << 30
_SEND_BUFFER_BYTES = 4 << 20
# <asm-generic/socket.h>; Python has no name for it.
_SO_SNDBUFFORCE = 32


class Side(Enum):
    """Whether a connection is to the source or the target: it decides what a failure means."""

    SOURCE = "source"
    TARGET = "target"


class Extent(NamedTuple):
    """A run of bytes that reads as zeroes (`zero`) or holds data."""

    offset_bytes: int
    length_bytes: int
    zero: bool


class Endpoint:
    """A connected NBD export.

    `completions` holds (token, errno) in order of arrival; errno 0 is success. Not thread-safe.
    """

    def __init__(self, uri: str, side: Side) -> None:
        """Connect. Raises SourceUnusable or TargetUnusable with libnbd's message."""
        self.side = side
        self.completions: deque[tuple[object, int]] = deque()
        handle = nbd.NBD()
        try:
            handle.set_handle_name(side.value)
            handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
            # The buffer of a failed read is never used, so it need not be cleared before each read.
            handle.set_pread_initialize(False)
            handle.connect_uri(uri)
            self.size_bytes = handle.get_size()
            self.has_extents = handle.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        except nbd.Error as error:
            unusable = SourceUnusable if side is Side.SOURCE else TargetUnusable
            raise unusable(
                f"cannot connect to the {side.value}: {error.string}",
                hint="check that the NBD server runs and offers this export",
            ) from error
        self.handle = handle
        self._in_flight: dict[int, object] = {}
        if side is Side.TARGET:
            _widen(handle.aio_get_fd())

    def read(self, buffer: memoryview, offset_bytes: int, token: object) -> None:
        """Read `len(buffer)` bytes into `buffer`, which must live until completion."""
        try:
            self._in_flight[self.handle.aio_pread(buffer, offset_bytes)] = token
        except nbd.Error as error:
            raise self._refused(error) from error

    def write(self, buffer: memoryview, offset_bytes: int, token: object) -> None:
        """Write `buffer`, which must live and stay unchanged until completion."""
        try:
            self._in_flight[self.handle.aio_pwrite(buffer, offset_bytes)] = token
        except nbd.Error as error:
            raise self._refused(error) from error

    def zero(self, offset_bytes: int, length_bytes: int, token: object) -> None:
        """Make a range read as zeroes; the server may deallocate it."""
        try:
            self._in_flight[self.handle.aio_zero(length_bytes, offset_bytes)] = token
        except nbd.Error as error:
            raise self._refused(error) from error

    def flush(self, token: object) -> None:
        """Make all writes that completed so far durable."""
        try:
            self._in_flight[self.handle.aio_flush()] = token
        except nbd.Error as error:
            raise self._refused(error) from error

    def collect(self) -> bool:
        """Move completed requests to `completions`; returns whether that holds any.

        Call it after each call that may let the connection make progress.
        """
        in_flight = self._in_flight
        while in_flight:
            cookie = self.handle.aio_peek_command_completed()
            if not cookie:
                break
            errnum = 0
            try:
                self.handle.aio_command_completed(cookie)
            except nbd.Error as error:
                errnum = error.errnum or errno.EIO
            self.completions.append((in_flight.pop(cookie), errnum))
        return bool(self.completions)

    def _refused(self, error: nbd.Error) -> TransferFailure:
        return self.failure(error.errnum or errno.EIO, error.string)

    def extents(self, offset_bytes: int, length_bytes: int) -> list[Extent]:
        """The allocation of a range, neighbours of one kind merged. Blocks.

        Raises nbd.Error: what a failed query means is the caller's decision.
        """
        found: list[Extent] = []
        end = offset_bytes + length_bytes
        at = offset_bytes
        while at < end:
            entries: list[int] = []

            def add(
                context: str, _offset: int, flat: list[int], error: c_int, into: list[int] = entries
            ) -> int:
                if context == nbd.CONTEXT_BASE_ALLOCATION and not error.value:
                    into.extend(flat)
                return 0

            try:
                self.handle.block_status(min(end - at, _STATUS_LIMIT_BYTES), at, add)
            finally:
                # Other requests may have completed meanwhile.
                self.collect()
            before = at
            for length, flags in zip(entries[::2], entries[1::2], strict=True):
                length = min(length, end - at)
                if length == 0:
                    continue
                _append(found, Extent(at, length, bool(flags & nbd.STATE_ZERO)))
                at += length
            if at == before:
                raise nbd.Error("block status made no progress", errno.EPROTO)
        return found

    @property
    def is_busy(self) -> bool:
        """Whether a request is in flight."""
        return bool(self._in_flight)

    def is_lost(self) -> bool:
        """Whether the connection is dead or closed."""
        return bool(self.handle.aio_is_dead() or self.handle.aio_is_closed())

    def failure(self, errnum: int, text: str = "", *, writing: bool = True) -> TransferFailure:
        """What a failed request on this connection means for the transfer."""
        name = errno.errorcode.get(errnum, str(errnum))
        detail = text or os.strerror(errnum)
        metadata = {"errno": name}
        if self.side is Side.SOURCE:
            if self.is_lost():
                return SourceLost(
                    f"the connection to the source broke: {detail}", metadata=metadata
                )
            return SourceFailed(f"reading the source failed: {detail}", metadata=metadata)
        if errnum in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return TargetFull(f"the target's storage is full: {detail}", metadata=metadata)
        if self.is_lost():
            return TargetFailed(f"the connection to the target broke: {detail}", metadata=metadata)
        if errnum == errno.EPERM:
            # NBD has no EROFS: the usual cause arrives as EPERM.
            detail += " (its file system may have become read-only)"
        what = "writing" if writing else "reading"
        return TargetFailed(f"{what} the target failed: {detail}", metadata=metadata)

    def close(self) -> None:
        """Disconnect as NBD prescribes, if the server still answers; never raises."""
        # On a connection that is dead, or was never ready, libnbd refuses the shutdown.
        with contextlib.suppress(nbd.Error):
            self.handle.shutdown(nbd.SHUTDOWN_ABANDON_PENDING)
        # Tokens reference buffers and this endpoint.
        self._in_flight.clear()
        self.completions.clear()


def _widen(fd: int) -> None:
    """Enlarge a socket's send buffer so that it takes a whole request at once.

    Linux's default is 208 KiB, with which sending 1 MiB waits for the server five times: measured,
    a third of a copy's time. Only root may exceed net.core.wmem_max (socket(7)); for other users
    the kernel silently limits the buffer to that.
    """
    with socket.socket(fileno=os.dup(fd)) as sending:
        try:
            sending.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER_BYTES)
        except PermissionError:
            sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)


def _append(found: list[Extent], extent: Extent) -> None:
    last = found[-1] if found else None
    if last is not None and last.zero == extent.zero:
        found[-1] = Extent(last.offset_bytes, last.length_bytes + extent.length_bytes, last.zero)
    else:
        found.append(extent)
