"""Operators' requests: checked against the state machine's table, recorded, and acted on at once.

Every control is idempotent. A waiting migration gets a new tick that is due now; a running one
notices the request at its next safe point.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import select

from services.orchestrator.database import tables
from services.orchestrator.database.store import Store, add_event
from services.orchestrator.errors import ControlNotAllowed
from services.orchestrator.signals import Signals
from services.orchestrator.stages import Control, Stage, State, allowed
from services.orchestrator.tick import NextTick

__all__ = ["Controls"]

Submit = Callable[[NextTick], None]

# In these states a thread runs a tick now; in the others a tick is at most queued.
_BUSY = frozenset({State.RUNNING})


class Controls:
    """The operators' side of the state machine. `submit` queues a tick. All methods block."""

    def __init__(self, store: Store, signals: Signals, submit: Submit) -> None:
        self._store = store
        self._signals = signals
        self._submit = submit

    def start(self, migration_id: str, actor: str) -> None:
        """Put a submitted migration into the queue; a started one stays as it is."""
        with self._store.reading() as session:
            query = select(tables.Migration.state, tables.Migration.started)
            row = session.execute(query.where(tables.Migration.id == migration_id)).first()
        if row is not None and (row.started or row.state != State.QUEUED):
            return
        with self._request(migration_id, None, actor, "started") as migration:
            migration.started = True
            migration.activity = "in the queue"

    def finalize(self, migration_id: str, actor: str, *, now: bool) -> None:
        """Ask for the cutover; `now` skips the delta pass that makes the final sync shorter."""
        with self._request(migration_id, Control.FINALIZE, actor, "cutover") as migration:
            migration.finalize_requested = True
            migration.finalize_now_requested = migration.finalize_now_requested or now
            migration.finalize_time = migration.finalize_time or self._store.clock()

    def decide_shutdown(self, migration_id: str, actor: str, action: str) -> None:
        """Decide how a machine that did not shut down is shut down; `action` is force or manual."""
        with self._request(
            migration_id, Control.SHUTDOWN, actor, f"shutdown {action}"
        ) as migration:
            migration.shutdown_action = action

    def pause(self, migration_id: str, actor: str) -> None:
        """Stop at the next safe point."""
        with self._request(migration_id, Control.PAUSE, actor, "pause") as migration:
            migration.pause_requested = True

    def resume(self, migration_id: str, actor: str) -> None:
        """Continue a paused migration."""
        with self._request(migration_id, Control.RESUME, actor, "resume") as migration:
            migration.pause_requested = False
            if migration.state == State.PAUSED:
                migration.state = State.RUNNING

    def retry(self, migration_id: str, actor: str) -> None:
        """Continue a failed migration at its stage."""
        with self._request(migration_id, Control.RETRY, actor, "retry") as migration:
            if migration.state == State.FAILED:
                migration.state = State.RUNNING
                migration.attempts = 0
                migration.epoch += 1

    def cancel(self, migration_id: str, actor: str) -> None:
        """End a migration; undo what it made on the source and the target."""
        with self._request(migration_id, Control.CANCEL, actor, "cancel") as migration:
            self._undo(migration, Control.CANCEL)

    def rollback(self, migration_id: str, actor: str) -> None:
        """Undo a cutover: CloudStack unmanages the target, the source is started."""
        with self._request(migration_id, Control.ROLLBACK, actor, "rollback") as migration:
            self._undo(migration, Control.ROLLBACK)

    def act_on(self, migration_id: str, request: str, actor: str) -> None:
        """Act on a marker file's request (see `markers.MARKERS`)."""
        match request:
            case "finalize":
                self.finalize(migration_id, actor, now=False)
            case "finalize_now":
                self.finalize(migration_id, actor, now=True)
            case "shutdown_force":
                self.decide_shutdown(migration_id, actor, "force")
            case "shutdown_manual":
                self.decide_shutdown(migration_id, actor, "manual")
            case _:
                raise ValueError(f"unknown request {request!r}")

    def recover(self) -> tuple[NextTick, ...]:
        """The ticks to queue after a start of the orchestrator.

        Called before the engine starts: it makes stale the ticks that the engine recovers by
        itself, so that they do not run beside these.
        """
        active = (State.QUEUED, State.RUNNING, State.WAITING)
        taken: list[NextTick] = []
        for snapshot in self._store.list(states=active, limit=100_000):
            with self._store.change(snapshot.id) as (_, migration):
                if not migration.started:
                    continue
                # A new number: the old tick's workflow may have ended without a successor.
                migration.tick += 1
                number = migration.tick
            due = snapshot.wake_time
            delay = (due - self._store.clock()).total_seconds() if due else 0.0
            taken.append(NextTick(snapshot.id, number, max(delay, 0.0)))
        return tuple(taken)

    @staticmethod
    def _undo(migration: tables.Migration, kind: Control) -> None:
        if migration.state in {State.CANCELLED, State.ROLLED_BACK}:
            return
        migration.undo = migration.undo or kind
        migration.state = State.RUNNING
        migration.started = True
        migration.end_time = None
        # Attempts are counted anew for the undo.
        migration.attempts = 0

    @contextmanager
    def _request(
        self, migration_id: str, control: Control | None, actor: str, text: str
    ) -> Iterator[tables.Migration]:
        """Record a request; raises ControlNotAllowed where the table does not allow it."""
        with self._store.change(migration_id) as (session, migration):
            state = State(migration.state)
            if control is not None:
                reason = allowed(control, Stage(migration.stage), state)
                if reason:
                    raise ControlNotAllowed(
                        message=f"{migration.vm_name}: {reason}",
                        metadata={"stage": migration.stage, "state": migration.state},
                    )
            yield migration
            migration.requests += 1
            add_event(
                session,
                self._store.clock,
                migration,
                f"operator.{control or 'start'}",
                f"{text} was asked for",
                actor=actor,
            )
            # A running tick commits its successor itself; a tick that is only queued is replaced.
            if state not in _BUSY:
                migration.tick += 1
            due = migration.started and State(migration.state) in {
                State.QUEUED,
                State.RUNNING,
                State.WAITING,
            }
            number = migration.tick
        self._signals.wake(migration_id)
        if due:
            self._submit(NextTick(migration_id, number, 0.0))
