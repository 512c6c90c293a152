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
    # Whether it has no limit of its own: it then has the agent's limit of each transfer.
    default_rate: bool = False
    # The limit last sent to its worker, in bytes a second.
    sent_rate: int = 0


class RateKeeper:
    """Divides the agent's rate among the transfers that run. Works on the event loop's thread."""

    def __init__(self, shares: RateShares, clock: Callable[[], float]) -> None:
        self._shares = shares
        self._clock = clock

    @property
    def transfer_rate(self) -> int:
        """The limit of a transfer that has none of its own, in bytes a second; 0: no limit."""
        return self._shares.transfer_rate

    def replace(self, shares: RateShares, entries: Iterable[TransferEntry]) -> None:
        """Use these limits from now on."""
        self._shares = shares
        self.share(entries)

    def share(self, entries: Iterable[TransferEntry]) -> None:
        """Set the limit of each running transfer; send it to the workers whose limit changed."""
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
            # Only if it changed: a worker that gets a limit forgets what it read beyond the last.
            if entry.worker is not None and rate != entry.sent_rate:
                entry.sent_rate = rate
                entry.worker.command("rate", bytes_per_second=rate)
