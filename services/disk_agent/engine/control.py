"""The commands to a running pass: stop, pause, resume, change the rate."""

import select

from services.disk_agent.engine.limit import RateLimit
from services.disk_agent.transfer_failures import TransferFailure


class Control:
    """What a running pass was commanded; the engine looks at it between two steps.

    A subclass that receives commands from outside returns a readable file descriptor from `fileno`
    and carries them out in `receive`, so that the engine's poll loop wakes up for them.
    """

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self.paused = False
        self.stop: TransferFailure | None = None

    def fileno(self) -> int:
        """A descriptor to poll, or -1."""
        return -1

    def receive(self) -> None:
        """Carry out the commands that have arrived, without blocking."""

    def wait(self, seconds: float) -> None:
        """Wait for a time, or until a command arrives."""
        fds = [self.fileno()] if self.fileno() >= 0 else []
        readable, _, _ = select.select(fds, [], [], seconds)
        if readable:
            self.receive()
