"""What transfers leave on a host: processes, folders, sockets, pipes, marks and locks, counted."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

from tests.rigs.disk.agent import AgentProcess

_MARK = "V2C_BENCH_CYCLES"


@dataclass(frozen=True)
class Left:
    """How many of each there are. `pipes` are the agent's own: they carry orders and passwords."""

    processes: int
    folders: int
    sockets: int
    pipes: int
    open_marks: int
    locks: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(astuple(self))

    def covers(self, least: "Left") -> bool:
        """Whether there are as many of each."""
        return all(
            ours >= theirs for ours, theirs in zip(astuple(self), astuple(least), strict=True)
        )


@contextlib.contextmanager
def marked(folder: Path) -> Iterator[None]:
    """Mark all processes that are started meanwhile, and what they start."""
    os.environ[_MARK] = str(folder)
    try:
        yield
    finally:
        del os.environ[_MARK]


def marked_processes(running: AgentProcess) -> list[int]:
    """Marked processes but for the agent, whatever became of their parents (proc(5), environ)."""
    mark = f"{_MARK}={running.folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != running.process.pid:
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def pipes(running: AgentProcess) -> int:
    """Pipes that the agent has open; none once it has ended (proc(5), fd)."""
    found = 0
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{running.process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found += str(entry.readlink()).startswith("pipe:")
    return found


def left_behind(running: AgentProcess, image: Path, own_pipes: int) -> Left:
    """What there is of transfers into an image; `own_pipes` the agent has without any."""
    return Left(
        processes=len(marked_processes(running)),
        folders=len(list(running.run_dir.glob("*"))),
        sockets=len(list(_kernel_sockets(running.run_dir))),
        pipes=max(pipes(running) - own_pipes, 0),
        open_marks=len(list((running.folder / "control").rglob("*.open"))),
        locks=len(list(_locks(image))),
    )


def _kernel_sockets(folder: Path) -> Iterator[str]:
    """Unix sockets below a folder that a process still has open (proc(5), net/unix)."""
    for line in Path("/proc/net/unix").read_text().splitlines():
        path = line.split()[-1]
        if path.startswith(f"{folder}/"):
            yield path


def _locks(image: Path) -> Iterator[str]:
    """Locks on the image (proc(5), locks)."""
    inode = str(image.stat().st_ino)
    for line in Path("/proc/locks").read_text().splitlines():
        if line.split()[-3].rpartition(":")[2] == inode:
            yield line
