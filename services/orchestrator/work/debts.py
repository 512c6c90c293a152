"""Debts: records of what must be undone (snapshots, images, mounts).

A debt is *added* before the thing exists, *settled* by undoing the thing, and *dropped* when the
thing is no longer the migration's to undo. Settling and dropping remove the row.
"""

from collections.abc import Callable
from functools import partial

import structlog
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from services.kit.failure import ServiceError
from services.orchestrator.clock import Clock
from services.orchestrator.database import tables
from services.orchestrator.database.store import Store
from services.orchestrator.database.tables import DebtKind
from services.orchestrator.tick import Tick

__all__ = ["add_debt", "drop_debts", "settle", "settle_images", "settle_snapshots"]

_log = structlog.stdlib.get_logger(__name__)


def add_debt(
    session: Session, clock: Clock, migration: tables.Migration, kind: DebtKind, name: str
) -> None:
    """Record a debt, unless it is recorded already."""
    query = select(tables.Debt).where(
        tables.Debt.migration_id == migration.id,
        tables.Debt.kind == kind,
        tables.Debt.name == name,
    )
    if session.scalars(query).first() is None:
        session.add(
            tables.Debt(migration_id=migration.id, kind=kind, name=name, create_time=clock())
        )


def drop_debts(migration: tables.Migration, kind: DebtKind, name: str = "") -> None:
    """Remove all debts of a kind, or the one with this name, without undoing anything."""
    migration.debts = [
        debt for debt in migration.debts if debt.kind != kind or (name and debt.name != name)
    ]


def settle_snapshots(tick: Tick, *, keep: str = "") -> None:
    """Remove the migration's snapshots but `keep`. Raises ServiceError if one cannot be removed."""
    moref = tick.loaded.vm_moref
    for debt in _open(tick, DebtKind.SNAPSHOT):
        if debt.name != keep:
            remove = partial(tick.agents.vmware.remove_snapshot, moref, debt.name)
            settle(tick.store, debt, remove)


def settle_images(tick: Tick) -> None:
    """Delete the migration's images. Raises ServiceError if one cannot be deleted."""
    for debt in _open(tick, DebtKind.IMAGE):
        settle(tick.store, debt, partial(tick.agents.disk.delete_image, debt.name))


def settle(store: Store, debt: tables.Debt, undo: Callable[[], object]) -> None:
    """Call `undo` and remove the debt.

    A ServiceError of `undo` is recorded in the debt and raised.
    """
    try:
        undo()
    except ServiceError as exc:
        with store.change(debt.migration_id) as (session, _):
            row = session.get_one(tables.Debt, debt.id)
            row.attempts += 1
            row.last_error = exc.message
        _log.warning(
            "a debt could not be settled yet",
            action="debt.open",
            kind=debt.kind,
            name=debt.name,
            error=exc.message,
        )
        raise
    with store.change(debt.migration_id) as (session, _):
        session.execute(delete(tables.Debt).where(tables.Debt.id == debt.id))


def _open(tick: Tick, kind: DebtKind) -> list[tables.Debt]:
    return [debt for debt in tick.fresh().debts if debt.kind == kind]
