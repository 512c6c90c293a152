"""Target storage and changed block tracking."""

from services.orchestrator.database import tables
from services.orchestrator.database.tables import DebtKind
from services.orchestrator.stages import Stage
from services.orchestrator.tick import Advance, Outcome, Tick
from services.orchestrator.work.debts import add_debt
from services.orchestrator.work.image_names import image_name
from services.orchestrator.work.pools import reach_pool

__all__ = ["enable_cbt", "prepare_storage"]


def prepare_storage(tick: Tick) -> Outcome:
    """Make every pool reachable and create an empty image for each disk."""
    _choose_pools(tick)
    disks = tick.fresh().disks
    directories: dict[str, str] = {}
    for storage_id in sorted({disk.storage_id for disk in disks}):
        pool = tick.agents.cloudstack.resolve_pool(storage_id)
        tick.show(f"making pool {pool.name} reachable")
        directories[storage_id] = reach_pool(tick, pool)
    for disk in disks:
        _create_image(tick, disk, directories[disk.storage_id])
    return Advance(Stage.ENABLING_CBT)


def _choose_pools(tick: Tick) -> None:
    """For disks that have no image yet, take the pools from the present spec."""
    with tick.change() as (_, migration):
        for disk in migration.disks:
            if not disk.image_path:
                disk.storage_id = tick.spec.placement(disk.unit).storageid


def enable_cbt(tick: Tick) -> Outcome:
    """Switch changed block tracking on; it takes effect at the next stage's snapshot."""
    if tick.agents.vmware.enable_tracking(tick.loaded.vm_moref):
        tick.event("cbt.enabled", "changed block tracking was off and is now on")
    return Advance(Stage.CREATING_BASE_SNAPSHOT)


def _create_image(tick: Tick, disk: tables.Disk, directory: str) -> None:
    migration = tick.loaded
    name = disk.image_name or image_name(
        migration.vm_name, migration.vm_moref, disk.unit, migration.id
    )
    path = f"{directory.rstrip('/')}/{name}"
    with tick.change() as (session, migration):
        add_debt(session, tick.store.clock, migration, DebtKind.IMAGE, path)
        row = session.get_one(tables.Disk, (tick.id, disk.key))
        row.image_name, row.image_path = name, path
    tick.agents.disk.create_image(disk.storage_id, name, disk.capacity_bytes, disk.used_bytes)
    with tick.change() as (session, _):
        session.get_one(tables.Disk, (tick.id, disk.key)).image_bytes = disk.capacity_bytes
