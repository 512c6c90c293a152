"""Removes what ended work leaves behind, on the storage host and in the engine's queue."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from services.kit.failure import ServiceError
from services.orchestrator.database.store import Store
from services.orchestrator.ports.disk import DiskPort
from services.orchestrator.work.pools import settle_mounts

__all__ = ["Housekeeping"]

# Two hundred machines between delta passes end thousands of ticks an hour.
_PERIOD_SECONDS = 3600.0
# Nothing is in a finished tick that is not in the migration's row and its events.
_TICKS_KEPT = timedelta(hours=1)

_STOP_SECONDS = 2.0

_log = structlog.stdlib.get_logger(__name__)


class Housekeeping:
    """A thread of its own, at work when it is started and every hour after that."""

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
        """Begin; the engine has been started."""
        self._thread.start()

    def stop(self) -> None:
        """End, without waiting for an answer of the storage host: it is not needed."""
        self._stop.set()
        self._thread.join(_STOP_SECONDS)

    def tidy(self) -> None:
        """Do it once. What cannot be reached now is tidied the next time."""
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
