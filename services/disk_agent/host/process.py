"""Servers that run as child processes: their start, their last stderr lines, and their end."""

import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import quote

from services.kit.processes.control import die_with_parent, ends_within

_KEPT_LINES = 40
_LINE_LIMIT = 500


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
        """The last lines so far; all that were written if the process has ended."""
        self._thread.join(timeout=0.2)
        return list(self._lines)


def stop(process: subprocess.Popen[bytes], grace_seconds: float) -> None:
    """Ask a process to end, and kill it when it does not."""
    if process.poll() is None:
        process.terminate()
        if not ends_within(process.pid, grace_seconds):
            process.kill()
    process.wait()


class ServerEnded(Exception):
    """The server process ended before it was ready."""


class NbdServer:
    """A program that serves an NBD export on a unix socket; its pid file means that it is ready."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """The socket and the pid file are ``folder/name.sock`` and ``folder/name.pid``."""
        self.socket = folder / f"{name}.sock"
        self.pidfile = folder / f"{name}.pid"
        self._sleep = sleep
        self._now = now
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: StderrTail | None = None

    @property
    def uri(self) -> str:
        """The NBD URI of the export."""
        return f"nbd+unix:///?socket={quote(str(self.socket))}"

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        pass_fds: Collection[int] = (),
        binds_itself: bool,
    ) -> None:
        """Start the program. `binds_itself` is true of a program that ends itself with its parent.

        For any other the kernel is asked to kill it then. That code runs between fork and exec, so
        this process must have no other thread.
        """
        # A killed server leaves its files behind: some servers refuse an existing socket, and an
        # old pid file would be taken for a new one.
        self._remove_files()
        parent = os.getpid()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
            env=environment,
            preexec_fn=None if binds_itself else lambda: die_with_parent(parent),
        )
        if self._process.stderr is None:
            raise TypeError(f"no stderr of {command[0]}")
        self._stderr = StderrTail(self._process.stderr)

    def wait_until_served(self, timeout_seconds: float, step_seconds: float) -> None:
        """Wait for the pid file. Raises ServerEnded or TimeoutError."""
        deadline = self._now() + timeout_seconds
        while not _has_content(self.pidfile):
            if self._process is None or self._process.poll() is not None:
                raise ServerEnded
            if self._now() > deadline:
                raise TimeoutError
            self._sleep(step_seconds)

    def stderr_lines(self) -> list[str]:
        """The last lines that it wrote to stderr so far."""
        return self._stderr.lines() if self._stderr is not None else []

    def stop(self, grace_seconds: float) -> int | None:
        """End the program and remove its files; returns its exit status, None if it never ran."""
        status = None
        if self._process is not None:
            stop(self._process, grace_seconds)
            status = self._process.returncode
            self._process = None
        self._remove_files()
        return status

    def _remove_files(self) -> None:
        self.socket.unlink(missing_ok=True)
        self.pidfile.unlink(missing_ok=True)


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
