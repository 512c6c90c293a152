"""The target of a copy: a QCOW2 image behind qemu-nbd on a private unix socket."""

import mmap
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from services.disk_agent.host.process import NbdServer, ServerEnded
from services.disk_agent.host.qemu_lock import reports_lock
from services.disk_agent.transfer_failures import (
    TargetFailed,
    TargetFull,
    TargetLocked,
    TargetMissing,
    TargetUnusable,
)
from services.disk_agent.worker.metadata_repair import forget_cached, repair

_START_SECONDS = 20.0
_STOP_SECONDS = 10.0
_STEP_SECONDS = 0.002
_SHOWN_LINES = 3
_SECTOR_BYTES = 4096
# The largest request of qemu-nbd, and the largest threshold that glibc takes.
_REQUEST_LIMIT_BYTES = 32 << 20
_KEPT_MEMORY_BYTES = 64 << 20


def supports_direct_io(image: Path) -> bool:
    """Whether the image's file system supports O_DIRECT, tested by reading with it.

    tmpfs may refuse the open; some FUSE file systems accept the open and refuse the read.
    """
    try:
        fd = os.open(image, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Anonymous memory is page-aligned, which O_DIRECT needs.
        with mmap.mmap(-1, _SECTOR_BYTES) as page:
            os.preadv(fd, [page], 0)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def qemu_nbd_command(
    image: Path, socket: Path, pidfile: Path, *, writable: bool, cache: str = "auto"
) -> list[str]:
    """The qemu-nbd command line for an image; `cache` is "none", "writeback" or "auto".

    cache=none with native AIO measured 30 to 40 % faster than write-back at half the CPU time. An
    image that is only read needs no write lock, so it is opened read-only.
    """
    direct = cache == "none" or (cache == "auto" and supports_direct_io(image))
    caching = ["--cache=none", "--aio=native"] if direct else ["--cache=writeback"]
    access = ["--discard=unmap"] if writable else ["--read-only"]
    return [
        "qemu-nbd",
        "--persistent",
        "--shared=1",
        "--format=qcow2",
        *caching,
        *access,
        f"--socket={socket}",
        f"--pid-file={pidfile}",
        "--",
        str(image),
    ]


def qemu_nbd_environment() -> dict[str, str]:
    """The environment for qemu-nbd: this process's, and settings that make glibc keep freed memory.

    qemu-nbd allocates a buffer for each request and frees it. By default glibc gets buffers of more
    than 128 KiB from the kernel, page by page and cleared, and returns them: measured with 1 MiB
    requests this is half of qemu-nbd's CPU time, and a fifth of a copy's (mallopt(3)). With huge
    pages a copy takes a twelfth less: the kernel has fewer pages to pin for each direct write.
    """
    return {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": str(_REQUEST_LIMIT_BYTES),
        "MALLOC_TRIM_THRESHOLD_": str(_KEPT_MEMORY_BYTES),
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    }


class TargetServer:
    """A running qemu-nbd. Use as a context manager; close NBD connections before leaving.

    `open_mark` is a file that exists while the image is open for writing, and that stays when
    qemu-nbd was killed or the storage failed. If it exists at the start, the image is checked and
    repaired first.
    """

    def __init__(
        self,
        image: Path,
        runtime_dir: Path,
        *,
        writable: bool,
        cache: str = "auto",
        open_mark: Path | None = None,
        repairing: Callable[[Path], None] = repair,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._image = image
        self._server = NbdServer(runtime_dir, "target", sleep=sleep, now=now)
        self._writable = writable
        self._cache = cache
        self._open_mark = open_mark if writable else None
        self._repair = repairing

    @property
    def uri(self) -> str:
        """Where the image is served."""
        return self._server.uri

    def __enter__(self) -> Self:
        if not self._image.is_file():
            raise TargetMissing(f"there is no image {self._image}")
        if shutil.which("qemu-nbd") is None:
            raise TargetUnusable("qemu-nbd is not installed", hint="install qemu-utils")
        if self._open_mark is not None:
            if self._open_mark.exists():
                self._repair(self._image)
            try:
                _mark(self._open_mark)
            except OSError as error:
                raise TargetUnusable(
                    f"the folder of the chunk map, {self._open_mark.parent}, cannot be written to: "
                    f"{error.strerror}",
                    hint="check that its storage is mounted and writable",
                ) from error
        if not self._writable:
            # Reads must return what the storage holds, not what the page cache holds.
            forget_cached(self._image)
        command = qemu_nbd_command(
            self._image,
            self._server.socket,
            self._server.pidfile,
            writable=self._writable,
            cache=self._cache,
        )
        # The worker runs this before it has any other thread, and qemu-nbd has no option to end
        # with its parent.
        self._server.start(command, qemu_nbd_environment(), binds_itself=False)
        try:
            self._wait_until_served()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop(sound=not isinstance(error, TargetFailed | TargetFull))

    def last_messages(self) -> str:
        """The last messages of qemu-nbd, on one line."""
        return "; ".join(self._server.stderr_lines()[-_SHOWN_LINES:])

    def _wait_until_served(self) -> None:
        try:
            # The socket listens before the image is open; the pid file is written after.
            self._server.wait_until_served(_START_SECONDS, _STEP_SECONDS)
        except ServerEnded as error:
            messages = self.last_messages()
            if reports_lock(messages):
                raise TargetLocked(
                    f"the image {self._image} is in use by another process: {messages}"
                ) from error
            raise TargetUnusable(
                f"qemu-nbd cannot open {self._image}: {messages}",
                hint="check that the storage below the image is mounted and writable",
            ) from error
        except TimeoutError as error:
            raise TargetUnusable(
                f"qemu-nbd did not open {self._image} in time",
                hint="check that the storage below the image answers (NFS server, network)",
            ) from error

    def _stop(self, *, sound: bool = True) -> None:
        status = self._server.stop(_STOP_SECONDS)
        # qemu-nbd exits with 0 even if it cannot write what it still has in memory: hence `sound`.
        if self._open_mark is not None and sound and status == 0:
            self._open_mark.unlink(missing_ok=True)


def _mark(path: Path) -> None:
    """Create an empty file durably: it and its directory are synced."""
    for each, flags in ((path, os.O_WRONLY | os.O_CREAT), (path.parent, os.O_RDONLY)):
        fd = os.open(each, flags | os.O_CLOEXEC, 0o600)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
