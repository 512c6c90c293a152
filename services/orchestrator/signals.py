"""Wakes ticks that are waiting in this process."""

import threading
from collections import defaultdict

__all__ = ["Signals"]


class Signals:
    """One event per migration, and a flag that the process is stopping."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self._stopping = False

    @property
    def stopping(self) -> bool:
        """Whether the process is stopping."""
        return self._stopping

    def wake(self, migration_id: str) -> None:
        """Wake this migration's tick if it is waiting."""
        with self._lock:
            self._events[migration_id].set()

    def wait(self, migration_id: str, seconds: float) -> None:
        """Wait until woken, until the process stops, or until the time has passed."""
        with self._lock:
            event = self._events[migration_id]
        if not self._stopping:
            event.wait(seconds)
        event.clear()

    def stop(self) -> None:
        """Wake all ticks; from now on `wait` returns at once."""
        with self._lock:
            self._stopping = True
            for event in self._events.values():
                event.set()
