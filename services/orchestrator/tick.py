"""What a tick is: what a handler gets, how its stage ends, and which tick follows."""

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
    """The handler stopped at a safe point because of a request or the end of the process."""


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
    """What the queue has to carry: a migration's tick, and when it is due."""

    migration_id: str
    number: int
    delay_seconds: float


@dataclass(frozen=True)
class Tick:
    """What a handler has: the migration, and the means to read it anew and to change it.

    There are three views of the migration, and which one decides depends on the question:

    - `loaded` is the row as it was when the tick began. What cannot change under the tick is read
      from it, and what the tick as a whole does is decided by it.
    - `fresh()` reads the row anew. What this tick has changed itself, and what an operator may
      have requested meanwhile, is decided by it.
    - `change()` opens a transaction and gives the row in it. What is written depends on that row.
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
        """Show operators what the migration is doing; only changes are written."""
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
        """Wait inside a handler. Raises Interrupted when the work is not wanted any more."""
        self.signals.wait(self.id, seconds)
        if self.signals.stopping:
            raise Interrupted("the orchestrator stops")
        requested = select(tables.Migration.undo, tables.Migration.pause_requested)
        with self.store.reading() as session:
            now = session.execute(requested.where(tables.Migration.id == self.id)).one()
        if now.undo and not self.loaded.undo:
            raise Interrupted(now.undo)
        if heed_pause and now.pause_requested:
            raise Interrupted("pause")


Handler = Callable[[Tick], Outcome]


def reset_progress(migration: tables.Migration) -> None:
    """Begin to count: all of every disk lies ahead."""
    for disk in migration.disks:
        disk.total_bytes, disk.done_bytes = disk.capacity_bytes, 0
        disk.rate, disk.eta_seconds = 0, -1
