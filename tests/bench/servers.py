"""The NBD servers around a copy: the same command lines for every contender."""

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.disk_agent.worker.qemu_nbd import qemu_nbd_command, qemu_nbd_environment
from tests.bench.processes import Processes, wait_for


@dataclass(frozen=True)
class Served:
    """A running server."""

    process: subprocess.Popen[bytes]
    socket: Path

    @property
    def uri(self) -> str:
        """Where it listens."""
        return f"nbd+unix:///?socket={self.socket}"


@contextlib.contextmanager
def nbdkit_source(
    processes: Processes, folder: Path, disk: Path, *, delay_ms: int = 0, name: str = "source"
) -> Iterator[Served]:
    """nbdkit's file plugin over the disk; each read is delayed by `delay_ms`."""
    socket, pidfile = folder / f"{name}.sock", folder / f"{name}.pid"
    delayed = ["--filter=delay"] if delay_ms else []
    arguments = [f"rdelay={delay_ms}ms"] if delay_ms else []
    process = processes.start(
        [
            "nbdkit",
            "--foreground",
            "--exit-with-parent",
            "--readonly",
            f"--unix={socket}",
            f"--pidfile={pidfile}",
            *delayed,
            "file",
            str(disk),
            *arguments,
        ]
    )
    yield from _served(processes, process, socket, pidfile)


@contextlib.contextmanager
def qemu_source(processes: Processes, folder: Path, disk: Path) -> Iterator[Served]:
    """qemu-nbd over the raw disk, for runs whose client is killed: nbdkit 1.32 may abort then."""
    socket, pidfile = folder / "source.sock", folder / "source.pid"
    process = processes.start(
        [
            "qemu-nbd",
            "--persistent",
            "--shared=4",
            "--format=raw",
            "--read-only",
            f"--socket={socket}",
            f"--pid-file={pidfile}",
            "--",
            str(disk),
        ],
        # It prints a line for every reply that a killed client does not take.
        quiet=True,
    )
    yield from _served(processes, process, socket, pidfile)


@contextlib.contextmanager
def qemu_target(
    processes: Processes, folder: Path, image: Path, *, writable: bool = True, tuned: bool = True
) -> Iterator[Served]:
    """qemu-nbd over an image, with the options that the engine gives it.

    `tuned` gives it the engine's environment as well; without, it is as started by hand.
    """
    socket, pidfile = folder / "target.sock", folder / "target.pid"
    process = processes.start(
        qemu_nbd_command(image, socket, pidfile, writable=writable),
        environment=qemu_nbd_environment() if tuned else None,
    )
    yield from _served(processes, process, socket, pidfile)


def _served(
    processes: Processes, process: subprocess.Popen[bytes], socket: Path, pidfile: Path
) -> Iterator[Served]:
    try:
        wait_for("starting a server", pidfile.exists, process)
        yield Served(process, socket)
    finally:
        processes.end(process)
        socket.unlink(missing_ok=True)
        pidfile.unlink(missing_ok=True)
