"""nbdkit Python plugin: every disk of the lab's ESXi side from one nbdkit process.

    nbdkit --unix D/esxi/nbdkit.sock python lab/esxi/plugin.py dir=D/esxi

Export names: ``<vm>/<key>`` is the live disk, ``<vm>/<key>@<snapshot>`` a snapshot, ``vddk:``
before either of them the same read-only for the VDDK library, with injected faults. A disk may have
any number of readers. The first connection that writes to a live disk is its writer until it
closes; others get EROFS. Clients connect to ``D/esxi/nbd.sock``, a relay, so that they may be
killed; the control socket is ``D/esxi/control.sock``. Runs in nbdkit's libpython with the standard
library only.
"""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbdkit  # type: ignore[import-not-found]  # exists only inside nbdkit

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lab.control import ControlServer, serve_control
from lab.esxi.control import handlers
from lab.esxi.disks.disk import Disk
from lab.esxi.disks.store import Store
from lab.esxi.exports import ExportName
from lab.esxi.faults import FaultTable
from lab.esxi.model import BLOCK_BYTES
from lab.esxi.relay import serve_relay

API_VERSION = 2

_directory: Path | None = None
_store: Store
_faults = FaultTable()
_control: ControlServer


class _Connection:
    """One client's connection to one disk."""

    def __init__(self, export: ExportName, disk: Disk, capacity_bytes: int) -> None:
        self.export = export
        self.disk = disk
        self.capacity_bytes = capacity_bytes
        self.cut = False

    def may_write(self) -> bool:
        live = self.export.snapshot is None and not self.export.through_vddk
        return live and _store.is_powered_on(self.export.vm)

    def begin_write(self) -> None:
        """Raises OSError: EIO once the VM is off, EROFS while another connection writes."""
        if not self.may_write():
            raise OSError(errno.EIO, "the VM is powered off")
        if not _store.claim_writer(self.export.vm, self.export.key, self):
            raise OSError(errno.EROFS, "the disk has a writer already")

    def meet_faults(self, offset: int, length: int) -> None:
        if not self.export.through_vddk:
            return
        try:
            milliseconds = _faults.check_read(self.export.vm, self.export.key, offset, length)
        except OSError as error:
            self.cut = error.errno == errno.ESHUTDOWN
            raise
        if self.cut:
            raise OSError(errno.ESHUTDOWN, "the connection was cut")
        if milliseconds:
            time.sleep(milliseconds / 1000)


@contextmanager
def _errno_kept() -> Iterator[None]:
    """Send an OSError's number to the client; nbdkit would answer EIO to any exception."""
    try:
        yield
    except OSError as error:
        nbdkit.set_error(error.errno)
        raise


def thread_model() -> int:
    """Parallel, because disks have locks of their own."""
    return int(nbdkit.THREAD_MODEL_PARALLEL)


def config(key: str, value: str) -> None:
    """``dir=`` is the state directory."""
    global _directory
    if key != "dir":
        raise RuntimeError(f"unknown parameter {key}; there is only dir=")
    _directory = Path(value).absolute()


def after_fork() -> None:
    """Open the store and the sockets, after nbdkit's fork, which threads do not survive."""
    global _store, _control
    if _directory is None:
        raise RuntimeError("dir= is missing")
    _store = Store(_directory / "disks")
    serve_relay(_directory / "nbd.sock", _directory / "nbdkit.sock")
    _control = serve_control(_directory / "control.sock", handlers(_store, _faults))


def unload() -> None:
    """Stop the control thread before the interpreter ends, then close the files."""
    if "_control" in globals():
        _control.close()
        _store.close()


def open(readonly: bool) -> _Connection:
    """Find the disk named by the export."""
    export = ExportName.parse(nbdkit.export_name())
    disk, capacity_bytes = _store.open_view(export.vm, export.key, export.snapshot)
    return _Connection(export, disk, capacity_bytes)


def close(h: _Connection) -> None:
    """Stop being the disk's writer."""
    _store.release_writer(h.export.vm, h.export.key, h)


def get_size(h: _Connection) -> int:
    """Capacity in bytes."""
    return h.capacity_bytes


def can_write(h: _Connection) -> bool:
    """True for live disks of running VMs."""
    return h.may_write()


def can_extents(h: _Connection) -> bool:
    """Always: the disks know their allocation."""
    return True


def can_zero(h: _Connection) -> bool:
    """Writing zeroes is supported."""
    return True


def can_trim(h: _Connection) -> bool:
    """Trimming is supported."""
    return True


def can_flush(h: _Connection) -> bool:
    """Flushing is supported."""
    return True


def can_multi_conn(h: _Connection) -> bool:
    """True for read-only exports, whose content is the same on all connections."""
    return not h.may_write()


def pread(h: _Connection, buf: bytearray, offset: int, flags: int) -> None:
    """Fill the buffer."""
    with _errno_kept():
        h.meet_faults(offset, len(buf))
        h.disk.read(h.export.snapshot, buf, offset)


def pwrite(h: _Connection, buf: bytearray, offset: int, flags: int) -> None:
    """Change the live disk."""
    with _errno_kept():
        h.begin_write()
        h.disk.write(buf, offset)


def zero(h: _Connection, count: int, offset: int, flags: int) -> None:
    """Write zeroes. As on VMFS, blocks stay allocated, even with the flag MAY_TRIM."""
    with _errno_kept():
        h.begin_write()
        h.disk.zero(offset, count)


def trim(h: _Connection, count: int, offset: int, flags: int) -> None:
    """Deallocate blocks."""
    with _errno_kept():
        h.begin_write()
        h.disk.trim(offset, count)


def flush(h: _Connection, flags: int) -> None:
    """Also allowed to a writer whose VM has just been switched off, so that it can end cleanly."""
    with _errno_kept():
        h.disk.flush()


def extents(h: _Connection, count: int, offset: int, flags: int) -> Iterator[tuple[int, int, int]]:
    """Allocated blocks and holes."""
    hole = nbdkit.EXTENT_HOLE | nbdkit.EXTENT_ZERO
    first, end = offset // BLOCK_BYTES, -(-(offset + count) // BLOCK_BYTES)
    return (
        (run_first * BLOCK_BYTES, (run_end - run_first) * BLOCK_BYTES, 0 if used else hole)
        for run_first, run_end, used in h.disk.allocated(h.export.snapshot, first, end)
    )
