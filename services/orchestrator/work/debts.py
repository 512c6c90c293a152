"""Debts: what has to be undone, written down before it exists and paid until it is gone."""

from collections.abc import Callable
from functools import partial

import structlog
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from services.kit.failure import ServiceError
from services.orchestrator.clock import Clock
from services.orchestrator.database import tables
from services.orchestrator.tick import Tick

__all__ = ["IMAGE", "SNAPSHOT", "forgive", "owe", "pay_images", "pay_snapshots"]

SNAPSHOT = "snapshot"
IMAGE = "image"

_log = structlog.stdlib.get_logger(__name__)


def owe(session: Session, clock: Clock, migration: tables.Migration, kind: str, name: str) -> None:
    """Write a debt down; one that is open already stays as it is."""
    query = select(tables.Debt).where(
        tables.Debt.migration_id == migration.id,
        tables.Debt.kind == kind,
        tables.Debt.name == name,
    )
    if session.scalars(query).first() is None:
        session.add(
            tables.Debt(migration_id=migration.id, kind=kind, name=name, create_time=clock())
        )


def forgive(migration: tables.Migration, kind: str) -> None:
    """Close all debts of a kind: the things now belong to somebody else for good."""
    migration.debts = [debt for debt in migration.debts if debt.kind != kind]


def pay_snapshots(tick: Tick, *, keep: str = "") -> None:
    """Remove the migration's snapshots but `keep`. Raises ServiceError while one stays."""
    moref = tick.migration.vm_moref
    for debt in _open(tick, SNAPSHOT):
        if debt.name != keep:
            _pay(tick, debt, partial(tick.agents.vmware.remove_snapshot, moref, debt.name))


def pay_images(tick: Tick) -> None:
    """Delete the migration's images. Raises ServiceError while one stays."""
    for debt in _open(tick, IMAGE):
        _pay(tick, debt, partial(tick.agents.disk.delete_image, debt.name))


def _open(tick: Tick, kind: str) -> list[tables.Debt]:
    return [d for d in tick.reload().debts if d.kind == kind]


def _pay(tick: Tick, debt: tables.Debt, payment: Callable[[], object]) -> None:
    try:
        payment()
    except ServiceError as exc:
        with tick.change() as (session, _):
            row = session.get_one(tables.Debt, debt.id)
            row.attempts += 1
            row.last_error = exc.message
        _log.warning(
            "a debt could not be paid yet",
            action="debt.open",
            kind=debt.kind,
            name=debt.name,
            error=exc.message,
        )
        raise
    with tick.change() as (session, _):
        session.execute(delete(tables.Debt).where(tables.Debt.id == debt.id))
