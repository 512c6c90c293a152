"""Waiting within a deadline."""

from services.vmware_agent.ports import Clock

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0


class Deadline:
    """A moment after which no further attempt is begun."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._end = clock.monotonic() + seconds

    @property
    def remaining_seconds(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self._end - self._clock.monotonic())


class Backoff:
    """Pauses that double from half a second to fifteen seconds.

    Most tasks of vCenter end within seconds; a consolidation while the guest writes takes minutes,
    and polling it four times a minute is no load.
    """

    def __init__(self, clock: Clock, deadline: Deadline) -> None:
        self._clock = clock
        self._deadline = deadline
        self._next_seconds = _FIRST_PAUSE_SECONDS

    async def pause(self) -> bool:
        """Sleep, then return True; return False at once if the deadline would pass meanwhile."""
        seconds = self._next_seconds
        if seconds >= self._deadline.remaining_seconds:
            return False
        self._next_seconds = min(2 * seconds, _LONGEST_PAUSE_SECONDS)
        await self._clock.sleep(seconds)
        return True
