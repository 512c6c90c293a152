"""Storage pools on the storage host: made reachable, and unmounted when no migration needs them.

A mount that the disk agent made is a debt if `storage.unmount_when_done` is set. The debt is
settled when the last migration that needs the pool ends. Mounts that others made stay.
"""

import threading
from functools import partial

import structlog
from sqlalchemy import delete, select

from services.kit.failure import ServiceError
from services.orchestrator.database import tables
from services.orchestrator.database.store import Store
from services.orchestrator.database.tables import DebtKind
from services.orchestrator.ports.disk import DiskPort, Pool
from services.orchestrator.stages import TERMINAL
from services.orchestrator.tick import Tick
from services.orchestrator.work.debts import add_debt, drop_debts, settle

__all__ = ["leave_pools", "reach_pool", "settle_mounts"]

_log = structlog.stdlib.get_logger(__name__)

# One lock per pool: a migration must not rely on a mount that another one is about to release.
# Locks of this process are enough, because a database has only one orchestrator.
_locks: dict[str, threading.Lock] = {}


def reach_pool(tick: Tick, pool: Pool) -> str:
    """Make the pool reachable; returns its directory on the storage host."""
    if not tick.config.storage.unmount_when_done:
        return tick.agents.disk.ensure_pool(pool).directory
    with _lock(pool.id):
        with tick.change() as (session, migration):
            add_debt(session, tick.store.clock, migration, DebtKind.MOUNT, pool.id)
        reached = tick.agents.disk.ensure_pool(pool)
        if not reached.mounted_by_agent:
            with tick.change() as (_, migration):
                drop_debts(migration, DebtKind.MOUNT, pool.id)
    return reached.directory


def leave_pools(tick: Tick) -> None:
    """Release the pools that no other migration needs; called when the migration ends.

    A pool that cannot be released keeps its debt and does not prevent the migration's end;
    `settle_mounts` tries again.
    """
    mounts = [debt for debt in tick.fresh().debts if debt.kind == DebtKind.MOUNT]
    if mounts and not tick.config.storage.unmount_when_done:
        # unmount_when_done was switched off after the debts were added: the mounts stay.
        with tick.change() as (_, migration):
            drop_debts(migration, DebtKind.MOUNT)
        return
    for debt in mounts:
        _leave(tick.store, tick.agents.disk, debt)


def settle_mounts(store: Store, disk: DiskPort) -> None:
    """Try again to release pools that could not be released when their migration ended."""
    ended = select(tables.Migration.id).where(tables.Migration.state.in_(TERMINAL))
    query = select(tables.Debt).where(
        tables.Debt.kind == DebtKind.MOUNT, tables.Debt.migration_id.in_(ended)
    )
    with store.reading() as session:
        debts = session.scalars(query).all()
    for debt in debts:
        _leave(store, disk, debt)


def _lock(pool_id: str) -> threading.Lock:
    return _locks.setdefault(pool_id, threading.Lock())


def _leave(store: Store, disk: DiskPort, debt: tables.Debt) -> None:
    with _lock(debt.name):
        if _needed_by_others(store, debt):
            # The migration that needs the pool has a debt of its own.
            with store.change(debt.migration_id) as (session, _):
                session.execute(delete(tables.Debt).where(tables.Debt.id == debt.id))
            return
        try:
            settle(store, debt, partial(disk.release_pool, debt.name))
        except ServiceError:
            return  # `settle` has recorded the failure in the debt and logged it.
    _log.info("the pool was released", action="pool.released", pool=debt.name)


def _needed_by_others(store: Store, debt: tables.Debt) -> bool:
    """Whether another migration that has not ended has a debt or an image on the pool."""
    others = select(tables.Migration.id).where(
        tables.Migration.state.not_in(TERMINAL), tables.Migration.id != debt.migration_id
    )
    mounts = select(tables.Debt.id).where(
        tables.Debt.kind == DebtKind.MOUNT,
        tables.Debt.name == debt.name,
        tables.Debt.migration_id.in_(others),
    )
    images = select(tables.Disk.key).where(
        tables.Disk.storage_id == debt.name,
        tables.Disk.image_path != "",
        tables.Disk.migration_id.in_(others),
    )
    with store.reading() as session:
        return any(session.execute(query.limit(1)).first() for query in (mounts, images))
