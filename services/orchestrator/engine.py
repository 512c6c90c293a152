"""Durable execution of ticks, by means of DBOS's queue.

Each tick is a workflow of its own, so that recovery costs the same after one delta pass and after
ten thousand. The workflows' version never changes, so that a newer release continues ticks of an
older one. The queue carries only (migration, tick); everything else is in the migration's row.
"""

import threading
from collections.abc import Callable
from datetime import datetime

import structlog
from dbos import DBOS, DBOSConfig, SetEnqueueOptions, SetWorkflowID
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from services.orchestrator.signals import Signals
from services.orchestrator.tick import NextTick

__all__ = ["Engine"]

RunTick = Callable[[str, int], NextTick | None]

_QUEUE = "ticks"
_TICK = "tick"
# The states in which DBOS is done with a workflow (docs.dbos.dev, "Workflow Retention Policies").
_FINISHED = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
# Rows removed per transaction: few, so that other ticks do not wait for the database.
_BATCH = 500
# Part of the second within which an operator's request reaches a waiting migration.
_POLL_SECONDS = 0.2
# A running tick occupies a thread; a waiting migration does not.
_THREADS = 256
# The format of a tick's arguments. DBOS recovers only workflows of its own version, and would
# otherwise derive one from the source code.
_TICK_VERSION = "1"
_DATABASE_RETRY_SECONDS = 5.0

_log = structlog.stdlib.get_logger(__name__)


class Engine:
    """Runs `run_tick` for every tick that is due, and repeats it after a crash. One per process."""

    def __init__(self, database_url: str, run_tick: RunTick, signals: Signals) -> None:
        self._run_tick = run_tick
        self._signals = signals
        self._url = _system_url(database_url)
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start the queue and continue what a crash interrupted. Blocks."""
        config: DBOSConfig = {
            "name": "v2c",
            "system_database_url": self._url,
            "application_version": _TICK_VERSION,
            "log_level": "ERROR",
            "enable_otlp": False,
            "max_executor_threads": _THREADS,
        }
        DBOS(config=config)

        def tick(migration_id: str, number: int) -> None:
            self._tick(migration_id, number)

        self._workflow = DBOS.workflow(name=_TICK, max_recovery_attempts=None)(tick)
        DBOS.launch()
        DBOS.register_queue(_QUEUE, polling_interval_sec=_POLL_SECONDS)

    def submit(self, tick: NextTick) -> None:
        """Queue a tick; a tick that is queued already is not queued twice.

        Blocks for a database write.
        """
        if self._signals.stopping:
            return
        with (
            SetWorkflowID(f"{tick.migration_id}.{tick.number}"),
            SetEnqueueOptions(delay_seconds=tick.delay_seconds or None),
        ):
            DBOS.enqueue_workflow(_QUEUE, self._workflow, tick.migration_id, tick.number)

    def forget_finished(self, before: datetime) -> int:
        """Remove ticks that finished before `before`; returns how many. Blocks; only after `start`.

        DBOS keeps them for ever, unless its own Conductor applies a retention policy. A removed
        tick that is queued again finds itself stale, like any tick that has run.
        """
        count = 0
        while not self._signals.stopping:
            finished = DBOS.list_workflows(
                name=_TICK,
                status=_FINISHED,
                completed_before=before.isoformat(),
                limit=_BATCH,
                load_input=False,
                load_output=False,
            )
            if not finished:
                break
            DBOS.delete_workflows([workflow.workflow_id for workflow in finished])
            count += len(finished)
        return count

    def stop(self, timeout_seconds: int) -> None:
        """End the queue; blocks until running ticks, which `signals` interrupts, have stopped."""
        DBOS.destroy(workflow_completion_timeout_sec=timeout_seconds, destroy_registry=True)

    def _tick(self, migration_id: str, number: int) -> None:
        while True:
            try:
                following = self._run_tick(migration_id, number)
                if following is not None:
                    self.submit(following)
            except SQLAlchemyError as exc:
                # For example a full disk, or a database that restarts. The tick is safe to repeat.
                _log.error(
                    "the database failed, the tick is repeated",
                    action="tick.database_failed",
                    migration_id=migration_id,
                    error=str(exc),
                )
                self._signals.wait(migration_id, _DATABASE_RETRY_SECONDS)
                if not self._signals.stopping:
                    continue
            return


def _system_url(database_url: str) -> str:
    """The URL of DBOS's database: the same for PostgreSQL, a second file for SQLite."""
    url = make_url(database_url)
    if url.get_backend_name() != "sqlite" or not url.database:
        return url.render_as_string(hide_password=False)
    return str(url.set(database=f"{url.database}.ticks"))
