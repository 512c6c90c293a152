"""Starts, finds and ends processes by means of pid files."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

# Child processes are kept until they are waited for; without that they would stay zombies.
_children: dict[int, subprocess.Popen[bytes]] = {}


def spawn(
    command: Sequence[str], pid_file: Path, marker: str, log: Path
) -> subprocess.Popen[bytes]:
    """Start a daemon in a session of its own and write its pid file.

    ``marker`` is a part of its command line, by which `running_pid` recognises it. Its output is
    appended to ``log``.
    """
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    _children[process.pid] = process
    partial = pid_file.with_suffix(".pid.new")
    partial.write_text(f"{process.pid} {marker}\n")
    partial.replace(pid_file)
    return process


def running_pid(pid_file: Path) -> int | None:
    """The id in the file, if that process still runs; the kernel may have reused the id."""
    try:
        number, _, marker = pid_file.read_text().strip().partition(" ")
        pid = int(number)
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    return pid if marker.encode() in command and state != b"Z" else None


def end(pid_file: Path, number: int, timeout_seconds: float) -> bool:
    """Signal the process and wait; if it has ended, remove the pid file and return True."""
    pid = running_pid(pid_file)
    if pid is not None and not _signal_and_wait(pid, number, timeout_seconds):
        return False
    child = _children.pop(pid, None) if pid is not None else None
    if child is not None:
        child.wait()
    pid_file.unlink(missing_ok=True)
    return True


def stop(pid_file: Path, timeout_seconds: float) -> None:
    """End the process with SIGTERM, and after the time limit with SIGKILL."""
    if not end(pid_file, signal.SIGTERM, timeout_seconds):
        end(pid_file, signal.SIGKILL, timeout_seconds)


def _signal_and_wait(pid: int, number: int, timeout_seconds: float) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        signal.pidfd_send_signal(descriptor, number)
        return bool(select.select([descriptor], [], [], timeout_seconds)[0])
    except ProcessLookupError:
        return True
    finally:
        os.close(descriptor)
