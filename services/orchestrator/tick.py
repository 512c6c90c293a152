"""The types of a tick: what a handler receives, its outcomes, and the next tick."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from services.config import Config, ResolvedVm
from services.orchestrator.database import tables
from services.orchestrator.database.store import Store, add_event
from services.orchestrator.ports.agents import Agents
from services.orchestrator.signals import Signals
from services.orchestrator.stages import Stage, State

__all__ = [
    "Advance",
    "Finish",
    "Handler",
    "Interrupted",
    "NextTick",
    "Outcome",
    "Tick",
    "Wait",
    "reset_progress",
]


class Interrupted(Exception):
    """The handler stopped at a safe point, because of a request or because the process stops."""


@dataclass(frozen=True)
class Advance:
    """The stage is finished."""

    stage: Stage


@dataclass(frozen=True)
class Wait:
    """The stage continues after `seconds`, or when an operator wakes it."""

    seconds: float
    activity: str
    state: State = State.WAITING


@dataclass(frozen=True)
class Finish:
    """The migration has ended in `state`."""

    state: State
    activity: str


Outcome = Advance | Wait | Finish


@dataclass(frozen=True)
class NextTick:
    """An entry of the queue: a migration's tick, and when it is due."""

    migration_id: str
    number: int
    delay_seconds: float


@dataclass(frozen=True)
class Tick:
    """A handler's access to its migration.

    There are three views of the migration's row, for three purposes:

    - `loaded` is the row as it was when the tick began. A handler uses it for values that do not
      change during the tick, and to decide what the tick does.
    - `fresh()` reads the row again. A handler uses it for values that this tick has changed itself,
      and for requests that an operator may have made meanwhile.
    - `change()` opens a transaction and yields the row in it. A handler uses it for every value
      from which it computes what it writes.
    """

    loaded: tables.Migration
    spec: ResolvedVm
    config: Config
    agents: Agents
    store: Store
    signals: Signals

    @property
    def id(self) -> str:
        """The migration's id."""
        return self.loaded.id

    @contextmanager
    def change(self) -> Iterator[tuple[Session, tables.Migration]]:
        """A transaction on the migration; `loaded` stays as it is."""
        with self.store.change(self.id) as (session, migration):
            yield session, migration

    def fresh(self) -> tables.Migration:
        """The migration as it is now, detached."""
        with self.store.reading() as session:
            return session.get_one(tables.Migration, self.id)

    def show(self, activity: str) -> None:
        """Set the migration's activity; nothing is written if it is the same."""
        with self.store.reading() as session:
            known = select(tables.Migration.activity).where(tables.Migration.id == self.id)
            if session.scalar(known) == activity:
                return
        with self.change() as (_, migration):
            migration.activity = activity

    def event(self, action: str, message: str, **details: Any) -> None:
        """Add an audit event."""
        with self.change() as (session, migration):
            add_event(session, self.store.clock, migration, action, message, **details)

    def pause(self, seconds: float, *, heed_pause: bool = True) -> None:
        """Wait inside a handler. Raises Interrupted on a request, or when the process stops."""
        self.signals.wait(self.id, seconds)
        if self.signals.stopping:
            raise Interrupted("the orchestrator is stopping")
        requested = select(tables.Migration.undo, tables.Migration.pause_requested)
        with self.store.reading() as session:
            now = session.execute(requested.where(tables.Migration.id == self.id)).one()
        if now.undo and not self.loaded.undo:
            raise Interrupted(now.undo)
        if heed_pause and now.pause_requested:
            raise Interrupted("pause")


Handler = Callable[[Tick], Outcome]


def reset_progress(migration: tables.Migration) -> None:
    """Set every disk's progress to the beginning."""
    for disk in migration.disks:
        disk.total_bytes, disk.done_bytes = disk.capacity_bytes, 0
        disk.rate, disk.eta_seconds = 0, -1
