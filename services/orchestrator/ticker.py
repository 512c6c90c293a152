"""Runs ticks: load the migration, run its stage's handler, persist the outcome and the next tick.

The outcome and the next tick's number are written in one transaction; the engine's queue carries
only that number, so a tick that runs twice finds itself stale the second time.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta

import structlog
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from services.config import Config, ResolvedVm
from services.kit.errors import internal_error
from services.kit.failure import ServiceError
from services.orchestrator.clock import Clock
from services.orchestrator.database import tables
from services.orchestrator.database.store import Store, add_event
from services.orchestrator.ports.agents import Agents
from services.orchestrator.signals import Signals
from services.orchestrator.stages import COUNTED_IN_BYTES, TERMINAL, Control, Stage, State, row
from services.orchestrator.tick import (
    Advance,
    Finish,
    Handler,
    Interrupted,
    NextTick,
    Outcome,
    Tick,
    Wait,
    reset_progress,
)

# Seconds before each retry of a stage after a retryable error. After the last one the migration
# fails. About 20 minutes in total: long enough for a vCenter restart.
BACKOFF_SECONDS = (1, 2, 5, 15, 30, 60, 120, 300, 600)


# Retries before anything is begun: few, because an operator who mistyped an address is waiting.
FIRST_CONTACT_ATTEMPTS = 3


_log = structlog.stdlib.get_logger(__name__)


# Releases the snapshots that a paused or failed migration must not keep.
Release = Callable[[Tick], None]


# Resolves a stored spec against the present configuration.
SpecReader = Callable[[str, str], ResolvedVm]


class Ticker:
    """Runs ticks."""

    def __init__(
        self,
        store: Store,
        agents: Agents,
        config: Config,
        signals: Signals,
        handlers: Mapping[Stage, Handler],
        undo: Handler,
        release: Release,
        read_spec: SpecReader,
    ) -> None:
        missing = set(Stage) - set(handlers) - {Stage.DONE}
        if missing:
            raise ValueError(f"stages without a handler: {sorted(missing)}")
        self._store = store
        self._agents = agents
        self._config = config
        self._signals = signals
        self._handlers = handlers
        self._undo = undo
        self._release = release
        self._read_spec = read_spec

    def run(self, migration_id: str, number: int) -> NextTick | None:
        """Run tick `number`.

        Returns the next tick, or None if the migration ended, paused or failed.
        """
        with structlog.contextvars.bound_contextvars(migration_id=migration_id, tick=number):
            migration = self._begin(migration_id, number)
            if migration is None:
                return self._present(migration_id)
            try:
                outcome = self._handle(migration)
            except Interrupted:
                if self._signals.stopping:
                    return None
                outcome = Wait(0, migration.activity, State.RUNNING)
            except OperationalError:
                raise  # The database's error, not the migration's: the engine repeats the tick.
            except ServiceError as exc:
                if not _tries_again(migration, exc):
                    self._suspend(migration)
                return self._failed(migration, exc)
            except Exception as exc:  # A bug must fail the migration, not lose its tick.
                return self._failed(migration, internal_error(exc))
            return self._persist(migration, outcome)

    def _begin(self, migration_id: str, number: int) -> tables.Migration | None:
        """The migration with its state set to running, or None when this tick is stale."""
        with self._store.reading() as session:
            present = select(tables.Migration.tick, tables.Migration.state)
            loaded = session.execute(present.where(tables.Migration.id == migration_id)).first()
            if loaded is None or loaded.tick != number or loaded.state in _IDLE:
                return None
        with self._store.change(migration_id) as (_, migration):
            if migration.tick != number:
                return None
            if migration.stage != Stage.INIT:
                migration.state, migration.activity = State.RUNNING, ""
            if not migration.stage_times:
                migration.stage_times = [[migration.stage, self._store.clock().isoformat(), None]]
            migration.due_time = None
        with self._store.reading() as session:
            return session.get_one(tables.Migration, migration_id)

    def _suspend(self, migration: tables.Migration) -> None:
        """Release snapshots, which grow while they exist.

        One that cannot be released stays a debt.
        """
        try:
            self._release(self._tick(migration))
        except (ServiceError, Interrupted) as exc:
            _log.warning(
                "the migration's snapshots are kept for now", action="rest.failed", error=str(exc)
            )

    def _tick(self, migration: tables.Migration) -> Tick:
        spec = self._read_spec(migration.spec, migration.spec_source)
        return Tick(migration, spec, self._config, self._agents, self._store, self._signals)

    def _handle(self, migration: tables.Migration) -> Outcome:
        tick = self._tick(migration)
        if migration.undo:
            return self._undo(tick)
        stage = Stage(migration.stage)
        if migration.pause_requested and Control.PAUSE in row(stage).controls:
            self._release(tick)
            return Finish(State.PAUSED, "paused by an operator")
        outcome = self._handlers[stage](tick)
        if isinstance(outcome, Advance) and outcome.stage not in row(stage).next:
            raise ValueError(f"{stage} cannot be followed by {outcome.stage}")
        return outcome

    def _persist(self, before: tables.Migration, outcome: Outcome) -> NextTick | None:
        clock = self._store.clock
        with self._store.change(before.id) as (session, migration):
            if migration.tick != before.tick:
                # Another tick has replaced this one, whose outcome is stale.
                return NextTick(before.id, migration.tick, 0.0)
            migration.tick = before.tick + 1
            if (migration.undo and not before.undo) or _pause_first(migration, outcome):
                # A request came during the tick: keep the stage, so that the next tick acts on the
                # request.
                outcome = Wait(0, migration.activity, State.RUNNING)
            delay = 0.0
            match outcome:
                case Advance(stage):
                    _enter(migration, stage, clock().isoformat())
                    migration.error, migration.attempts = None, 0
                    migration.state, migration.activity = State.RUNNING, ""
                    add_event(session, clock, migration, "stage.entered", f"now in {stage}")
                    if stage is Stage.DONE:
                        _end(migration, State.DONE, clock)
                        migration.activity = "done"
                        add_event(session, clock, migration, "migration.done", "migrated")
                        return None
                case Wait(seconds, activity, state):
                    woken = migration.requests != before.requests
                    delay = 0.0 if woken else seconds
                    migration.state, migration.activity = state, activity
                    migration.due_time = clock() + timedelta(seconds=delay)
                    # The tick succeeded: clear the error of an earlier attempt.
                    migration.error, migration.attempts = None, 0
                case Finish(state, activity):
                    migration.activity = activity
                    if state in TERMINAL:
                        _end(migration, state, clock)
                    else:
                        migration.state = state
                    add_event(session, clock, migration, f"migration.{state}", activity)
                    return None
            return NextTick(before.id, migration.tick, delay)

    def _failed(self, before: tables.Migration, exc: ServiceError) -> NextTick | None:
        clock = self._store.clock
        with self._store.change(before.id) as (session, migration):
            if migration.tick != before.tick:
                return NextTick(before.id, migration.tick, 0.0)
            migration.tick = before.tick + 1
            migration.error = {**exc.failure.to_wire(), "time": clock().isoformat()}
            if migration.undo and not before.undo:
                return NextTick(before.id, migration.tick, 0.0)
            if not _tries_again(migration, exc):
                migration.state, migration.activity = State.FAILED, "failed"
                add_event(
                    session, clock, migration, "migration.failed", exc.message, reason=exc.reason
                )
                _log.error(exc.message, action="migration.failed", reason=exc.reason)
                return None
            delay = float(BACKOFF_SECONDS[migration.attempts])
            migration.attempts += 1
            migration.state = State.WAITING
            migration.activity = f"tries again in {delay:g} s: {exc.message}"
            migration.due_time = clock() + timedelta(seconds=delay)
            add_event(session, clock, migration, "stage.retry", exc.message, reason=exc.reason)
            _log.warning(exc.message, action="stage.retry", reason=exc.reason, delay_seconds=delay)
            return NextTick(before.id, migration.tick, delay)

    def _present(self, migration_id: str) -> NextTick | None:
        """The migration's present tick.

        A stale tick returns it in case it has not been queued yet.
        """
        with self._store.reading() as session:
            migration = session.get(tables.Migration, migration_id)
            if migration is None or migration.state in _IDLE or not migration.started:
                return None
            due = migration.due_time
            delay = (due - self._store.clock()).total_seconds() if due else 0.0
            return NextTick(migration_id, migration.tick, max(delay, 0.0))


def _tries_again(migration: tables.Migration, exc: ServiceError) -> bool:
    """Whether the stage is retried automatically after this error."""
    first_contact = migration.stage == Stage.CONNECTING_VCENTER and not migration.undo
    limit = FIRST_CONTACT_ATTEMPTS if first_contact else len(BACKOFF_SECONDS)
    return exc.retryable and migration.attempts < limit


def _pause_first(migration: tables.Migration, outcome: Outcome) -> bool:
    """Whether a pause is requested and the next stage could no longer be paused."""
    return (
        migration.pause_requested
        and isinstance(outcome, Advance)
        and Control.PAUSE in row(Stage(migration.stage)).controls
        and Control.PAUSE not in row(outcome.stage).controls
    )


_IDLE = TERMINAL | {State.FAILED, State.PAUSED}


def _enter(migration: tables.Migration, stage: Stage, now: str) -> None:
    times = [list(entry) for entry in migration.stage_times]
    if times:
        times[-1][2] = now
    migration.stage_times = [*times, [stage, now, None]]
    migration.stage = stage
    if stage in COUNTED_IN_BYTES:
        reset_progress(migration)


def _end(migration: tables.Migration, state: State, clock: Clock) -> None:
    now = migration.end_time = clock()
    migration.state = state
    times = [list(entry) for entry in migration.stage_times]
    if times and times[-1][2] is None:
        times[-1][2] = now.isoformat()
        migration.stage_times = times
