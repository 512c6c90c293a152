"""Removes records of ended work from the storage host and from the engine's queue."""

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from services.kit.failure import ServiceError
from services.orchestrator.database.store import Store
from services.orchestrator.database.views import MigrationView
from services.orchestrator.ports.disk import DiskPort
from services.orchestrator.stages import TERMINAL
from services.orchestrator.work.pools import drop_mounts, settle_mounts

__all__ = ["Housekeeping"]

# Two hundred machines that run delta passes finish thousands of ticks an hour.
_PERIOD_SECONDS = 3600.0
# A finished tick holds nothing that is not also in the migration's row and events.
_TICKS_KEPT = timedelta(hours=1)

_STOP_SECONDS = 2.0

_log = structlog.stdlib.get_logger(__name__)


class Housekeeping:
    """A thread of its own, at work when it is started and every hour after that.

    Pools are released when a migration has ended, and not in its tick: an NFS server that is away
    may keep an unmount for minutes.
    """

    def __init__(
        self,
        store: Store,
        disk: DiskPort,
        forget_ticks: Callable[[datetime], int],
        retention: timedelta,
        *,
        unmount_when_done: bool,
    ) -> None:
        """`forget_ticks` removes finished ticks older than a time; records on the storage host are
        kept for `retention`, mounts of ended migrations unless `unmount_when_done`."""
        self._store = store
        self._disk = disk
        self._forget_ticks = forget_ticks
        self._retention = retention
        self._unmount_when_done = unmount_when_done
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def start(self) -> None:
        """Begin; the engine has been started."""
        self._store.listen(self._changed)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, without waiting for a call to the storage host that is under way."""
        self._stop.set()
        self._woken.set()
        self._thread.join(_STOP_SECONDS)

    def tidy(self) -> None:
        """Tidy once. A storage host that cannot be reached is tidied the next time."""
        now = self._store.clock()
        self._forget_ticks(now - _TICKS_KEPT)
        images, ranges = self._store.records_in_use()
        try:
            self._disk.prune_records(images, ranges, now - self._retention)
        except ServiceError as exc:
            _log.warning(
                "records on the storage host are kept for now",
                action="records.kept",
                error=exc.message,
            )
        self.tidy_mounts(again=True)

    def tidy_mounts(self, *, again: bool) -> None:
        """Release the pools that nobody needs any more; with `again` also those that failed."""
        if self._unmount_when_done:
            settle_mounts(self._store, self._disk, again=again)
        else:
            drop_mounts(self._store)

    def _run(self) -> None:
        due = time.monotonic()
        # A migration that ended right before the stop is not left for the next start.
        while self._ended.is_set() or not self._stop.is_set():
            self._woken.clear()
            self._ended.clear()
            try:
                if time.monotonic() >= due:
                    due = time.monotonic() + _PERIOD_SECONDS
                    self.tidy()
                else:
                    self.tidy_mounts(again=False)
            except Exception:  # The thread outlives any single failure, and logs it.
                _log.exception("tidying up failed", action="records.failed")
            if not self._stop.is_set():
                self._woken.wait(max(due - time.monotonic(), 0.0))

    def _changed(self, snapshot: MigrationView) -> None:
        """Called after each change of a migration; a debt that was tried waits for its hour."""
        if snapshot.state in TERMINAL and not any(debt.attempts for debt in snapshot.debts):
            self._ended.set()
            self._woken.set()
