"""Removes records of ended work from the storage host and from the engine's queue."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from services.kit.failure import ServiceError
from services.orchestrator.database.store import Store
from services.orchestrator.ports.disk import DiskPort
from services.orchestrator.work.pools import settle_mounts

__all__ = ["Housekeeping"]

# Two hundred machines that run delta passes finish thousands of ticks an hour.
_PERIOD_SECONDS = 3600.0
# A finished tick holds nothing that is not also in the migration's row and events.
_TICKS_KEPT = timedelta(hours=1)

_STOP_SECONDS = 2.0

_log = structlog.stdlib.get_logger(__name__)


class Housekeeping:
    """A thread that tidies when it is started and every hour after that."""

    def __init__(
        self,
        store: Store,
        disk: DiskPort,
        forget_ticks: Callable[[datetime], int],
        retention: timedelta,
    ) -> None:
        """`forget_ticks` removes finished ticks older than a time; records on the storage host are
        kept for `retention`."""
        self._store = store
        self._disk = disk
        self._forget_ticks = forget_ticks
        self._retention = retention
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def start(self) -> None:
        """Start the thread. The engine must have been started before."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, without waiting for a call to the storage host that is under way."""
        self._stop.set()
        self._thread.join(_STOP_SECONDS)

    def tidy(self) -> None:
        """Tidy once. A storage host that cannot be reached is tidied the next time."""
        now = self._store.clock()
        self._forget_ticks(now - _TICKS_KEPT)
        settle_mounts(self._store, self._disk)
        images, ranges = self._store.records_in_use()
        try:
            self._disk.prune_records(images, ranges, now - self._retention)
        except ServiceError as exc:
            _log.warning(
                "records on the storage host are kept for now",
                action="records.kept",
                error=exc.message,
            )

    def _run(self) -> None:
        while True:
            try:
                self.tidy()
            except Exception:  # The thread outlives any single failure, and logs it.
                _log.exception("tidying up failed", action="records.failed")
            if self._stop.wait(_PERIOD_SECONDS):
                return
