"""What may be asked of a running pass: stop, pause, go on, another rate."""

import select

from services.disk_agent.engine.limit import RateLimit
from services.disk_agent.failures import TransferFailure


class Control:
    """Wishes for a running pass, read by the engine between two steps.

    A subclass that hears wishes from outside returns a readable file descriptor from `fileno` and
    takes them in `receive`, so that the engine's poll loop wakes up for them.
    """

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self.paused = False
        self.stop: TransferFailure | None = None

    def fileno(self) -> int:
        """A descriptor to poll, or -1."""
        return -1

    def receive(self) -> None:
        """Take what is there without blocking."""

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than until a wish arrives."""
        fds = [self.fileno()] if self.fileno() >= 0 else []
        readable, _, _ = select.select(fds, [], [], seconds)
        if readable:
            self.receive()
