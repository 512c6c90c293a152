"""Storage pools on the storage host: made reachable, and unmounted when no migration needs them.

A mount that the disk agent made is a debt of each migration that reached the pool while
`storage.unmount_when_done` was set. A migration keeps it when it ends: housekeeping settles it when
no migration that has not ended needs the pool any more, so that none waits for an unmount. Mounts
of anybody else stay.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
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

__all__ = ["drop_mounts", "reach_pool", "settle_mounts"]

_log = structlog.stdlib.get_logger(__name__)

# How soon a tick that waits for a pool notices a pause, a cancel or the end of the process.
_LOCK_SECONDS = 1.0
# By pool: one migration must not count on a mount that another is just about to release. A
# database has one orchestrator, whose ticks are threads.
_locks: dict[str, threading.Lock] = {}


def reach_pool(tick: Tick, pool: Pool) -> str:
    """Make the pool reachable; returns its directory on the storage host."""
    if not tick.config.storage.unmount_when_done:
        return tick.agents.disk.ensure_pool(pool).directory
    with _held(tick, pool.id):
        with tick.change() as (session, migration):
            add_debt(session, tick.store.clock, migration, DebtKind.MOUNT, pool.id)
        reached = tick.agents.disk.ensure_pool(pool)
        if not reached.mounted_by_agent:
            with tick.change() as (_, migration):
                drop_debts(migration, DebtKind.MOUNT, pool.id)
    return reached.directory


def settle_mounts(store: Store, disk: DiskPort, *, again: bool) -> None:
    """Release the pools of ended migrations that nobody needs any more.

    What could not be released before is tried only with `again`.
    """
    pools: dict[str, list[tables.Debt]] = {}
    for debt in _mounts_of_ended(store):
        pools.setdefault(debt.name, []).append(debt)
    for pool_id, debts in pools.items():
        if again or not any(debt.attempts for debt in debts):
            _settle(store, disk, pool_id)


def drop_mounts(store: Store) -> None:
    """The mounts of ended migrations stay: `storage.unmount_when_done` was switched off."""
    for migration_id in {debt.migration_id for debt in _mounts_of_ended(store)}:
        with store.change(migration_id) as (_, migration):
            drop_debts(migration, DebtKind.MOUNT)


def _lock(pool_id: str) -> threading.Lock:
    return _locks.setdefault(pool_id, threading.Lock())


@contextmanager
def _held(tick: Tick, pool_id: str) -> Iterator[None]:
    """The pool's lock. Raises Interrupted when the wait for it is not wanted any more.

    An NFS server that is away may keep whoever has the lock for minutes.
    """
    lock = _lock(pool_id)
    while not lock.acquire(timeout=_LOCK_SECONDS):
        tick.pause(0)
    try:
        yield
    finally:
        lock.release()


def _mounts_of_ended(store: Store, pool_id: str = "") -> list[tables.Debt]:
    """The mounts, of one pool or all, that ended migrations have left; the oldest first."""
    ended = select(tables.Migration.id).where(tables.Migration.state.in_(TERMINAL))
    query = select(tables.Debt).where(
        tables.Debt.kind == DebtKind.MOUNT, tables.Debt.migration_id.in_(ended)
    )
    if pool_id:
        query = query.where(tables.Debt.name == pool_id)
    with store.reading() as session:
        return list(session.scalars(query.order_by(tables.Debt.id)))


def _settle(store: Store, disk: DiskPort, pool_id: str) -> None:
    with _lock(pool_id):
        if _needed(store, pool_id):
            return
        debts = _mounts_of_ended(store, pool_id)
        if not debts:
            return
        first, *others = debts
        try:
            settle(store, first, partial(disk.release_pool, pool_id))
        except ServiceError:
            return  # Recorded with the debt, and logged.
        for debt in others:
            # The same mount; a pool that is released again after a crash here is no error.
            with store.change(debt.migration_id) as (session, _):
                session.execute(delete(tables.Debt).where(tables.Debt.id == debt.id))
    _log.info("the pool was released", action="pool.released", pool=pool_id)


def _needed(store: Store, pool_id: str) -> bool:
    """Whether a migration that has not ended has a debt or an image on the pool."""
    under_way = select(tables.Migration.id).where(tables.Migration.state.not_in(TERMINAL))
    mounts = select(tables.Debt.id).where(
        tables.Debt.kind == DebtKind.MOUNT,
        tables.Debt.name == pool_id,
        tables.Debt.migration_id.in_(under_way),
    )
    images = select(tables.Disk.key).where(
        tables.Disk.storage_id == pool_id,
        tables.Disk.image_path != "",
        tables.Disk.migration_id.in_(under_way),
    )
    with store.reading() as session:
        return any(session.execute(query.limit(1)).first() for query in (mounts, images))
