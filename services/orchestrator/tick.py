"""What a handler gets, and how its stage ends."""

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
    "Outcome",
    "Tick",
    "Wait",
    "reset_progress",
]


class Interrupted(Exception):
    """The handler stopped at a safe point because of an operator's wish or the process' end."""


@dataclass(frozen=True)
class Advance:
    """The stage is finished."""

    stage: Stage


@dataclass(frozen=True)
class Wait:
    """The stage goes on after `seconds`, or when an operator wakes it."""

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
class Tick:
    """What a handler has: the migration as it was loaded, and the means to change it."""

    migration: tables.Migration
    spec: ResolvedVm
    config: Config
    agents: Agents
    store: Store
    signals: Signals

    @property
    def id(self) -> str:
        """The migration's id."""
        return self.migration.id

    @contextmanager
    def change(self) -> Iterator[tuple[Session, tables.Migration]]:
        """A transaction on the migration; a handler's own row stays as it was loaded."""
        with self.store.change(self.id) as (session, migration):
            yield session, migration

    def reload(self) -> tables.Migration:
        """The migration as it is now."""
        with self.store.reading() as session:
            return session.get_one(tables.Migration, self.id)

    def say(self, activity: str) -> None:
        """Tell the operator what is going on; only changes are written."""
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
        wishes = select(tables.Migration.undo, tables.Migration.pause_requested)
        with self.store.reading() as session:
            now = session.execute(wishes.where(tables.Migration.id == self.id)).one()
        if now.undo and not self.migration.undo:
            raise Interrupted(now.undo)
        if heed_pause and now.pause_requested:
            raise Interrupted("pause")


Handler = Callable[[Tick], Outcome]


def reset_progress(migration: tables.Migration) -> None:
    """Begin to count: all of every disk lies ahead."""
    for disk in migration.disks:
        disk.total_bytes, disk.done_bytes = disk.capacity_bytes, 0
        disk.rate, disk.eta_seconds = 0, -1
