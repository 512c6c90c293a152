"""Processes of this host: bound to a parent with prctl(2), and found in /proc.

Imports little of the standard library and nothing else: a conversion's reaper loads this in the
middle of a migration's downtime, and a child process calls it between fork and exec.
"""

import contextlib
import ctypes
import os
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

# prctl(2); from <linux/prctl.h>.
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PROC = Path("/proc")
_libc = ctypes.CDLL(None, use_errno=True)


def signal_on_parent_death(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when the thread that started it ends.

    Survives exec. Raises OSError when the kernel refuses.
    """
    _prctl(_PR_SET_PDEATHSIG, int(number), "PR_SET_PDEATHSIG")


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the thread that started it ends.

    Ends this process at once if the parent ended before the call: its parent's id differs then.
    Raises OSError.
    """
    signal_on_parent_death(signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent ends. Raises OSError."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, "PR_SET_CHILD_SUBREAPER")


def is_alive(pid: int) -> bool:
    """Whether a process still runs.

    Zombies do not count: they hold neither files nor locks, and in a container their parent may
    collect them late or never.
    """
    stat = _stat(_PROC / str(pid))
    return stat is not None and _runs(stat)


def group_is_alive(group: int) -> bool:
    """Whether a process of a process group still runs."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    stats = (_stat(_PROC / str(pid)) for pid in process_ids())
    return any(stat is not None and int(stat[2]) == group and _runs(stat) for stat in stats)


def descendants(pid: int) -> list[int]:
    """The children of a process, their children and so on, zombies too."""
    children: dict[int, list[int]] = {}
    for child in process_ids():
        stat = _stat(_PROC / str(child))
        if stat is not None:
            children.setdefault(int(stat[1]), []).append(child)
    found: list[int] = []
    left = [pid]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def find_processes(matches: Callable[[Path], bool], proc: Path = _PROC) -> set[int]:
    """The processes for whose folder in /proc `matches` returns True; never this process.

    A process that ends meanwhile, or whose files this user cannot read, is left out.
    """
    found = set()
    for pid in process_ids(proc):
        with contextlib.suppress(OSError):
            if pid != os.getpid() and matches(proc / str(pid)):
                found.add(pid)
    return found


def process_ids(proc: Path = _PROC) -> Iterator[int]:
    """The ids of all processes; one may have ended by the time its id is used."""
    return (int(entry.name) for entry in proc.iterdir() if entry.name.isdigit())


def ends_within(pid: int, seconds: float) -> bool:
    """Whether a child ends within a time. It waits for an event; Popen.wait(timeout) polls."""
    fd = os.pidfd_open(pid)
    try:
        end = select.poll()
        end.register(fd, select.POLLIN)
        return bool(end.poll(seconds * 1000))
    finally:
        os.close(fd)


def _prctl(option: int, value: int, name: str) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({name}): {os.strerror(number)}")


def _stat(folder: Path) -> list[str] | None:
    """State, parent and group of a process, None when it has ended."""
    try:
        # proc(5): the name in parentheses may hold any bytes, and is cut within a character; then
        # come state, parent and group.
        fields = (folder / "stat").read_bytes().rpartition(b")")[2].decode("ascii").split()[:3]
    except OSError:
        return None
    return fields if len(fields) == 3 else None


def _runs(stat: list[str]) -> bool:
    return stat[0] not in "ZX"
