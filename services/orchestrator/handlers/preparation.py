"""Target storage and changed block tracking."""

import re

from services.orchestrator.database import tables
from services.orchestrator.stages import Stage
from services.orchestrator.tick import Advance, Outcome, Tick
from services.orchestrator.work.debts import IMAGE, owe

__all__ = ["enable_cbt", "prepare_storage"]

_NAME_LIMIT = 120


def image_name(migration: tables.Migration, unit: int) -> str:
    """The file name in the pool's root: safe for a shell, CloudStack and any file system.

    The migration's id keeps a second migration of the same machine away from the first one's
    image, which may be a running machine's disk by then.
    """
    safe = re.sub(r"[^A-Za-z0-9.-]+", "-", migration.vm_name).strip("-.")[:_NAME_LIMIT] or "vm"
    return f"{safe}_{migration.vm_moref}_disk{unit}_{migration.id[:8]}.qcow2"


def prepare_storage(tick: Tick) -> Outcome:
    """Make every pool reachable and create an empty image for each disk."""
    _choose_pools(tick)
    disks = tick.reload().disks
    directories: dict[str, str] = {}
    for storage_id in sorted({disk.storage_id for disk in disks}):
        pool = tick.agents.cloudstack.resolve_pool(storage_id)
        tick.say(f"making pool {pool.name} reachable")
        directories[storage_id] = tick.agents.disk.ensure_pool(pool)
    for disk in disks:
        _create_image(tick, disk, directories[disk.storage_id])
    return Advance(Stage.ENABLING_CBT)


def _choose_pools(tick: Tick) -> None:
    """Take them from the spec as it is now, for disks that have no image yet."""
    with tick.change() as (_, migration):
        for disk in migration.disks:
            if not disk.image_path:
                disk.storage_id = tick.spec.placement(disk.unit).storageid


def enable_cbt(tick: Tick) -> Outcome:
    """Switch tracking on; it takes effect with the snapshot of the next stage."""
    if tick.agents.vmware.enable_tracking(tick.migration.vm_moref):
        tick.event("cbt.enabled", "changed block tracking was off and is now on")
    return Advance(Stage.CREATING_BASE_SNAPSHOT)


def _create_image(tick: Tick, disk: tables.Disk, directory: str) -> None:
    name = image_name(tick.migration, disk.unit)
    path = f"{directory.rstrip('/')}/{name}"
    with tick.change() as (session, migration):
        owe(session, tick.store.clock, migration, IMAGE, path)
        row = session.get_one(tables.Disk, (tick.id, disk.key))
        row.image_name, row.image_path = name, path
    tick.agents.disk.create_image(disk.storage_id, name, disk.capacity_bytes, disk.used_bytes)
    with tick.change() as (session, _):
        session.get_one(tables.Disk, (tick.id, disk.key)).image_bytes = disk.capacity_bytes
