"""Gives running transfers their limits: when one starts or ends, and when the limits change."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from services.disk_agent.resources.registry import Entry
from services.disk_agent.transfers.rates import RateShares
from services.disk_agent.transfers.supervisor import RunningWorker
from services.disk_agent.transfers.transfer import Transfer


@dataclass
class TransferEntry(Entry[Transfer]):
    """A transfer with what is needed while this agent runs."""

    worker: RunningWorker | None = None
    # Nobody asked for a limit of its own: it follows the agent's for each transfer.
    default_rate: bool = False
    # The limit that its worker got last, in bytes a second.
    sent_rate: int = 0


class RateKeeper:
    """Divides the agent's rate among the transfers that run. Works on the event loop's thread."""

    def __init__(self, shares: RateShares, clock: Callable[[], float]) -> None:
        self._shares = shares
        self._clock = clock

    @property
    def transfer_rate(self) -> int:
        """The limit of a transfer that has none of its own, in bytes a second; 0 is none."""
        return self._shares.transfer_rate

    def replace(self, shares: RateShares, entries: Iterable[TransferEntry]) -> None:
        """Use other limits from now on."""
        self._shares = shares
        self.share(entries)

    def share(self, entries: Iterable[TransferEntry]) -> None:
        """Give each running transfer its limit, and send it to workers for which it changed."""
        running = {
            entry.record.id: entry
            for entry in entries
            if entry.task is not None and not entry.record.paused
        }
        for entry in running.values():
            default = self._shares.transfer_rate
            if entry.default_rate and entry.record.rate_bytes_per_second != default:
                entry.record = entry.record.changed(self._clock(), rate_bytes_per_second=default)
        own = {id_: entry.record.rate_bytes_per_second for id_, entry in running.items()}
        for id_, rate in self._shares.shares(own).items():
            entry = running[id_]
            if rate != entry.record.effective_rate:
                entry.record = entry.record.changed(self._clock(), effective_rate=rate)
            # A limit that is sent again would drop the debt of what was read beyond it.
            if entry.worker is not None and rate != entry.sent_rate:
                entry.sent_rate = rate
                entry.worker.command("rate", bytes_per_second=rate)
