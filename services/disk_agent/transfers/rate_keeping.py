"""Running transfers are told their limits: when one comes or goes, and when the limits change."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from services.disk_agent.transfers.rates import RateShares
from services.disk_agent.transfers.supervisor import RunningWorker
from services.disk_agent.transfers.transfer import Transfer


@dataclass
class Entry:
    """A transfer with what is needed while this agent runs."""

    transfer: Transfer
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    task: asyncio.Task[None] | None = None
    worker: RunningWorker | None = None
    cancelled: bool = False
    # Nobody asked for a limit of its own: it follows the agent's for each transfer.
    default_rate: bool = False
    # What its worker was told last, in bytes a second.
    told_rate: int = 0


class RateKeeper:
    """Divides what the agent may use among what runs now. Works on the event loop's thread."""

    def __init__(self, shares: RateShares, clock: Callable[[], float]) -> None:
        self._shares = shares
        self._clock = clock

    @property
    def transfer_rate(self) -> int:
        """The limit of a transfer that has none of its own, in bytes a second; 0 is none."""
        return self._shares.transfer_rate

    def replace(self, shares: RateShares, entries: Iterable[Entry]) -> None:
        """Go by other limits from now on."""
        self._shares = shares
        self.share(entries)

    def share(self, entries: Iterable[Entry]) -> None:
        """Give each running transfer its limit, and tell those workers whose limit changes."""
        running = {
            entry.transfer.id: entry
            for entry in entries
            if entry.task is not None and not entry.transfer.paused
        }
        for entry in running.values():
            default = self._shares.transfer_rate
            if entry.default_rate and entry.transfer.rate_bytes_per_second != default:
                entry.transfer = entry.transfer.changed(
                    self._clock(), rate_bytes_per_second=default
                )
        own = {id_: entry.transfer.rate_bytes_per_second for id_, entry in running.items()}
        for id_, rate in self._shares.shares(own).items():
            entry = running[id_]
            if rate != entry.transfer.effective_rate:
                entry.transfer = entry.transfer.changed(self._clock(), effective_rate=rate)
            # A limit that is told again would forgive what was read beyond it.
            if entry.worker is not None and rate != entry.told_rate:
                entry.told_rate = rate
                entry.worker.wish("rate", bytes_per_second=rate)
