"""Servers that run as child processes: their last stderr lines, and their end."""

import subprocess
import threading
from collections import deque
from typing import IO

from services.kit.processes import ends_within

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
        """The last lines so far; all of them once the process has ended."""
        self._thread.join(timeout=0.2)
        return list(self._lines)


def stop(process: subprocess.Popen[bytes], grace_seconds: float) -> None:
    """Ask a process to end, and kill it when it does not."""
    if process.poll() is None:
        process.terminate()
        if not ends_within(process.pid, grace_seconds):
            process.kill()
    process.wait()
