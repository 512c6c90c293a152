"""Runs one command and ends all its processes: ``python -m …conversions.reaper -- COMMAND…``.

A killed virt-v2v leaves qemu, qemu-nbd and nbdkit behind, which keep the image open. So virt-v2v
runs below this small process, which becomes the parent of every orphan (PR_SET_CHILD_SUBREAPER) and
ends them all when

- the command ends,
- its own standard input closes: the disk agent stops the conversion, or has ended in any way,
- it gets SIGTERM.

Its exit status is the command's, 128 + N after signal N. Beside the standard library it imports
`services.kit.processes.control` only: it starts in the middle of a migration's downtime.
"""

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from services.kit.processes.control import adopt_orphans, descendants, is_alive

# virt-v2v removes its temporary files when asked to end; qemu takes a moment.
_TERM_SECONDS = 2.0
_STEP_SECONDS = 0.02
# As root, libguestfs puts its sockets into /tmp even if TMPDIR is set; a kill leaves them there.
_SOCKET_DIRECTORY = re.compile(rb"/tmp/libguestfs[A-Za-z0-9]{6}(?=/)")
_STOPPED_STATUS = 128 + signal.SIGTERM


def main(argv: list[str]) -> int:
    """Run the command in ``argv`` after ``--``; returns its exit status."""
    command = argv[argv.index("--") + 1 :]
    adopt_orphans()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGTERM, lambda _signal, _frame: None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    ended = os.pidfd_open(child.pid)
    try:
        select.select([ended, sys.stdin.fileno(), woken], [], [])
    finally:
        status = child.poll()
        end_processes(set(descendants(os.getpid())))
    if status is None:
        return _STOPPED_STATUS
    return status if status >= 0 else 128 - status


def end_processes(pids: set[int]) -> None:
    """Terminate these processes, kill those that stay, remove libguestfs' socket directories."""
    directories = {found for pid in pids for found in _SOCKET_DIRECTORY.findall(_command(pid))}
    for pid in pids:
        _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + _TERM_SECONDS
    while time.monotonic() < deadline and any(map(_still_runs, pids)):
        time.sleep(_STEP_SECONDS)
    # Processes that they started meanwhile have to be ended as well.
    pids |= set(descendants(os.getpid()))
    while any(map(_still_runs, pids)):
        for pid in pids:
            _signal(pid, signal.SIGKILL)
        time.sleep(_STEP_SECONDS)
        pids |= set(descendants(os.getpid()))
    for directory in directories:
        shutil.rmtree(os.fsdecode(directory), ignore_errors=True)


def _still_runs(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        # Collects the process if it is a child of ours and a zombie.
        os.waitpid(pid, os.WNOHANG)
    return is_alive(pid)


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return (Path("/proc") / str(pid) / "cmdline").read_bytes()
    return b""


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
