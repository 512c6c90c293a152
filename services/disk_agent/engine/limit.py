"""A token bucket that limits bytes a second; its rate may change while it is used."""

from collections.abc import Callable

# A copy that was delayed may catch up by at most what the rate allows in this time.
_BURST_SECONDS = 0.5
_SHORTEST_WAIT_SECONDS = 0.001


class RateLimit:
    """Decides how soon the next request may start. Rate 0 means without limit."""

    def __init__(self, bytes_per_second: int, now: Callable[[], float]) -> None:
        self._now = now
        self._rate = bytes_per_second
        self._tokens = 0.0
        self._filled = now()

    def set_rate(self, bytes_per_second: int) -> None:
        """Change the rate at once. Bytes spent beyond the old rate no longer delay requests."""
        self._rate = bytes_per_second
        self._tokens = 0.0
        self._filled = self._now()

    def wait_seconds(self) -> float:
        """How long to wait before the next request; 0 when it may start now."""
        if not self._rate:
            return 0.0
        now = self._now()
        room = self._rate * _BURST_SECONDS
        self._tokens = min(self._tokens + (now - self._filled) * self._rate, room)
        self._filled = now
        if self._tokens >= 0:
            return 0.0
        # The poll loop cannot wait for less; rounding might keep the bucket below zero for ever.
        return max(-self._tokens / self._rate, _SHORTEST_WAIT_SECONDS)

    def spend(self, count: int) -> None:
        """Take bytes from the bucket, which may become negative."""
        if self._rate:
            self._tokens -= count
