"""Child processes that never outlive who started them."""

import ctypes
import os
import select
import signal
import subprocess
import threading
from collections import deque
from pathlib import Path
from typing import IO

# prctl(2); from <linux/prctl.h>.
_PR_SET_PDEATHSIG = 1
_KEPT_LINES = 40
_LINE_LIMIT = 500
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the thread that started it ends.

    Survives exec. A parent that was gone before the call is noticed by its process id.
    Raises OSError when the kernel refuses.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        os._exit(1)


def group_is_alive(group: int) -> bool:
    """Whether a process of a process group still runs.

    Zombies do not count: they hold neither files nor locks, and wait for a parent that, in a
    container, may take its time or never ask for them.
    """
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return any(_runs_in(group, entry) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _runs_in(group: int, entry: Path) -> bool:
    try:
        # proc(5): the name in parentheses may hold anything; then come state, parent and group.
        state, _, of_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
    except OSError:
        # It ended meanwhile.
        return False
    return int(of_group) == group and state not in "ZX"


class StderrTail:
    """Reads a process's stderr to the end in a thread, and keeps the last lines."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                text = line.decode(errors="replace").strip()
                if text:
                    self._lines.append(text[:_LINE_LIMIT])

    def lines(self) -> list[str]:
        """The last lines so far; all of them once the process has ended."""
        self._thread.join(timeout=0.2)
        return list(self._lines)


def stop(process: subprocess.Popen[bytes], grace_seconds: float) -> None:
    """Ask a process to end, and kill it when it does not."""
    if process.poll() is None:
        process.terminate()
        if not _ends_within(process.pid, grace_seconds):
            process.kill()
    process.wait()


def _ends_within(pid: int, seconds: float) -> bool:
    """Wait for a child's end without looking again and again, as Popen.wait(timeout) does."""
    fd = os.pidfd_open(pid)
    try:
        end = select.poll()
        end.register(fd, select.POLLIN)
        return bool(end.poll(seconds * 1000))
    finally:
        os.close(fd)
