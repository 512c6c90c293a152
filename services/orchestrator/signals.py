"""Wakes ticks that wait inside this process."""

import threading
from collections import defaultdict

__all__ = ["Signals"]


class Signals:
    """One event per migration, and one flag for the end of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self._stopping = False

    @property
    def stopping(self) -> bool:
        """True once the process is to end."""
        return self._stopping

    def wake(self, migration_id: str) -> None:
        """End the present wait of this migration's tick."""
        with self._lock:
            self._events[migration_id].set()

    def wait(self, migration_id: str, seconds: float) -> None:
        """Wait until woken, stopping, or the time has passed."""
        with self._lock:
            event = self._events[migration_id]
        if not self._stopping:
            event.wait(seconds)
        event.clear()

    def stop(self) -> None:
        """End all waits, now and from now on."""
        with self._lock:
            self._stopping = True
            for event in self._events.values():
                event.set()
