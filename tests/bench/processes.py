"""Processes whose CPU time is counted to the last tick, whoever started them."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

# Long, because a machine may be busy: waiting ends sooner when the process ends.
_PATIENCE_SECONDS = 300.0
_STEP_SECONDS = 0.002


class BenchFailed(Exception):
    """A measurement that could not be made: no statement about the product."""


@dataclass(frozen=True)
class Cost:
    """What one run took: by the clock, and on all processors together."""

    wall_seconds: float
    cpu_seconds: float


class Processes:
    """The processes of one run.

    wait4(2) gives a process's CPU time together with that of the children it waited for, so a
    worker's qemu-nbd is counted with it exactly as one that the bench starts itself. Work that the
    kernel does in threads of its own (write-back) is charged to nobody, for every contender.
    """

    def __init__(self) -> None:
        self.cpu_seconds = 0.0

    def start(
        self,
        command: Sequence[str],
        *,
        talk: bool = False,
        stdin: IO[bytes] | None = None,
        quiet: bool = False,
        own_group: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process; `talk` gives it pipes for standard input and output."""
        pipe = subprocess.PIPE if talk else subprocess.DEVNULL
        return subprocess.Popen(
            command,
            stdin=stdin or pipe,
            stdout=pipe,
            stderr=subprocess.DEVNULL if quiet else None,
            bufsize=0,
            start_new_session=own_group,
            env=environment,
        )

    def reap(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for its end; returns the exit status, negative for a signal."""
        _, status, usage = os.wait4(process.pid, 0)
        # Popen must not wait for a process id that may be another's by then.
        process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_seconds += usage.ru_utime + usage.ru_stime
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        return process.returncode

    def run(self, command: Sequence[str]) -> None:
        """Run to the end. Raises BenchFailed unless it ends well."""
        status = self.reap(self.start(command))
        if status:
            raise BenchFailed(f"{' '.join(command)} ended with {status}")

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Ask a server to end and wait for it; one that was killed already is reaped."""
        process.terminate()
        self.reap(process)


def wait_for(what: str, condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until a condition holds. Raises BenchFailed when the process ends before."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            raise BenchFailed(f"{what}: the process ended early")
        if time.monotonic() > deadline:
            raise BenchFailed(f"{what}: not in {_PATIENCE_SECONDS:.0f} seconds")
        time.sleep(_STEP_SECONDS)


def read_so_far(pid: int) -> int:
    """Bytes that a process has read from files and sockets since its start (proc(5), io)."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(lines[0].removeprefix("rchar: "))
