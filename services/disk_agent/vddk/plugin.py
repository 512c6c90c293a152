"""nbdkit Python plugin for VMware's libvixDiskLib, used if nbdkit's own vddk plugin is missing.

    nbdkit -r -U SOCKET python script=plugin.py libdir=/opt/vmware-vix-disklib-distrib \\
        server=vc.example.com user=... password=-FD thumbprint=AA:BB:... \\
        vm=moref=vm-12 snapshot=snapshot-34 file='[datastore] vm/vm.vmdk' transports=nbdssl

The parameters and their meanings are those of nbdkit-vddk-plugin(1). The plugin only reads. It
works with VDDK 6.7 to 9 on x86-64.

The caller sets, for the nbdkit process only::

    LD_LIBRARY_PATH=<libdir>/lib64

libvixDiskLib loads its own libssl, libcurl and libstdc++ from there, which qemu, virt-v2v and
system tools must never load. (nbdkit's C plugin sets this and executes nbdkit again; a script
cannot.)

This file and services.disk_agent.vddk run inside nbdkit, in the distribution's interpreter, so they
use the standard library only.

Reads are VixDiskLib_ReadAsync on one handle, and requests of a connection run in parallel. Measured
with 1 MiB requests, 8 in flight, MB/s: at 8 ms latency 650, a pool of four handles with synchronous
reads 410, one synchronous handle 100; without latency 960, 1170 and 1170. An ESXi host also allows
few NFC connections, so all requests in flight use one.
"""

from __future__ import annotations

import errno
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbdkit  # type: ignore[import-not-found]  # exists only inside nbdkit

# At the end of the path, so that nothing beside this package hides a module of the interpreter.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from services.disk_agent.vddk.abi import API_MAJOR, API_MINOR, SECTOR_BYTES
from services.disk_agent.vddk.disk import OpenDisk
from services.disk_agent.vddk.error_line import error_line
from services.disk_agent.vddk.library import (
    SONAMES,
    Library,
    VddkError,
    find_library,
    one_line,
)
from services.disk_agent.vddk.settings import PARAMETERS, Settings

API_VERSION = 2

_settings = Settings()
_library: Library | None = None
_open_close = threading.Lock()


def _loaded() -> Library:
    if _library is None:
        raise VddkError("libvixDiskLib was used before it was loaded")
    return _library


@contextmanager
def _reported() -> Iterator[None]:
    """On a VddkError print its number, then have nbdkit print its message without a traceback."""
    try:
        yield
    except VddkError as error:
        if error.number is not None:
            _print(error_line(error.function, error.number))
        sys.tracebacklimit = 0
        nbdkit.set_error(errno.EIO)
        raise


def _print(line: str) -> None:
    # One write for the whole line: the library's threads write to stderr at the same time.
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _warn(text: str) -> None:
    _print(f"nbdkit: vddk: {one_line(text)}")


def thread_model() -> int:
    """Requests run in parallel; see the top of this file."""
    return int(nbdkit.THREAD_MODEL_PARALLEL)


def config(key: str, value: str) -> None:
    """Take one parameter of the command line."""
    with _reported():
        _settings.take(key, value)


def config_complete() -> None:
    """Check the parameters; called after the last one."""
    with _reported():
        _settings.check_complete()


def get_ready() -> None:
    """Load the library: at this point an error still ends nbdkit."""
    global _library
    with _reported():
        _library = Library(find_library(_settings.text["libdir"]), log=nbdkit.debug, warn=_warn)


def after_fork() -> None:
    """Start the library."""
    with _reported():
        _loaded().initialise(_settings.text["config"])


def unload() -> None:
    """Stop the library's threads."""
    if _library is not None:
        _library.function["Exit"]()


def dump_plugin() -> None:
    """Print what ``nbdkit python plugin.py [libdir=...] --dump-plugin`` shows of this plugin."""
    print("vddk_plugin=v2c")
    print(f"vddk_parameters={' '.join(PARAMETERS)}")
    print(f"vddk_sonames={' '.join(SONAMES)}")
    print(f"vddk_api={API_MAJOR}.{API_MINOR}")


def open(readonly: bool) -> OpenDisk:
    """Connect and open the disk. The library allows one open or close at a time."""
    with _reported(), _open_close:
        disk = OpenDisk(_loaded(), _settings)
    nbdkit.debug(f"vddk: {disk.transport}, allocated blocks known: {disk.knows_allocation}")
    return disk


def close(h: OpenDisk) -> None:
    """Close and disconnect."""
    with _open_close:
        h.close()


def get_size(h: OpenDisk) -> int:
    """Capacity in bytes."""
    return h.size_bytes


def block_size(h: OpenDisk) -> tuple[int, int, int]:
    """Whole sectors are preferred; others are read with the sectors around them."""
    return SECTOR_BYTES, 1024 * 1024, 0xFFFFFFFF


def can_multi_conn(h: OpenDisk) -> bool:
    """False: several connections to one disk make each other slower."""
    return False


def can_extents(h: OpenDisk) -> bool:
    """Whether allocated blocks are known."""
    return h.knows_allocation


def pread(h: OpenDisk, buf: bytearray, offset: int, flags: int) -> None:
    """Fill the buffer."""
    with _reported():
        h.read(memoryview(buf), offset)


def extents(h: OpenDisk, count: int, offset: int, flags: int) -> list[tuple[int, int, int]]:
    """The allocated areas and the holes of a range."""
    hole = nbdkit.EXTENT_HOLE | nbdkit.EXTENT_ZERO
    with _reported():
        return [
            (start, length, 0 if allocated else hole)
            for start, length, allocated in h.extents(count, offset)
        ]
