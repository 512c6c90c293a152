"""The rate of each transfer now: from its own limit, the agent's, and the calendar's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class RateWindow:
    """A part of the week in local time with a ceiling for all transfers, in bytes a second.

    `days` count from Monday, 0. A window whose end is not after its begin ends on the next day; its
    `days` are those on which it begins. Minutes are since midnight; 1440 is the end of the day.
    """

    begin_minutes: int
    end_minutes: int
    days: frozenset[int]
    bytes_per_second: int

    def holds(self, local: datetime) -> bool:
        """Whether it is in force at a local time."""
        minute = local.hour * 60 + local.minute
        if self.begin_minutes < self.end_minutes:
            return local.weekday() in self.days and self.begin_minutes <= minute < self.end_minutes
        yesterday = (local - timedelta(days=1)).weekday()
        tonight = local.weekday() in self.days and minute >= self.begin_minutes
        return tonight or (yesterday in self.days and minute < self.end_minutes)


class RateShares:
    """Divides the agent's rate among its transfers. Rates are bytes a second; 0 is no limit."""

    def __init__(
        self,
        agent_rate: int = 0,
        windows: Sequence[RateWindow] = (),
        local_now: Callable[[], datetime] = datetime.now,
        transfer_rate: int = 0,
    ) -> None:
        """`agent_rate` and the lowest window in force limit all transfers together.

        `transfer_rate` is the limit of each transfer that has none of its own.
        """
        self.transfer_rate = transfer_rate
        self._agent_rate = agent_rate
        self._windows = tuple(windows)
        self._local_now = local_now

    def ceiling(self) -> int:
        """The rate that all transfers together may use now."""
        now = self._local_now()
        rates = [window.bytes_per_second for window in self._windows if window.holds(now)]
        return min([rate for rate in (self._agent_rate, *rates) if rate], default=0)

    def shares(self, own: Mapping[str, int]) -> dict[str, int]:
        """The limit of each transfer, by id, from their own limits.

        All get equal shares. What a transfer with a lower limit of its own leaves is shared by the
        others.
        """
        ceiling = self.ceiling()
        if not ceiling:
            return dict(own)
        shares: dict[str, int] = {}
        left = ceiling
        for transfer_id in sorted(own, key=lambda each: own[each] or ceiling):
            part = max(left // (len(own) - len(shares)), 1)
            shares[transfer_id] = min(own[transfer_id] or part, part)
            left -= shares[transfer_id]
        return shares
