"""Cancel and rollback: a migration ends only after everything it made is undone."""

from services.kit.failure import ServiceError
from services.orchestrator.database import tables
from services.orchestrator.database.tables import DebtKind
from services.orchestrator.handlers.cutover import conversion_id
from services.orchestrator.ports.reasons import Reason
from services.orchestrator.ports.vmware import PowerState
from services.orchestrator.stages import Control, Stage, State
from services.orchestrator.tick import Finish, Outcome, Tick
from services.orchestrator.work.debts import drop_debts, settle_images, settle_snapshots
from services.orchestrator.work.jobs import run_job, settle_jobs
from services.orchestrator.work.passes import open_pass
from services.orchestrator.work.transfers import stop_transfers
from services.orchestrator.work.verification import verify_ids

__all__ = ["undo"]

# The purposes of this module's jobs.
_STOP = "undo:stop"
_UNMANAGE = "undo:unmanage"


def undo(tick: Tick) -> Outcome:
    """Undo what the migration has made; run again until all of it is undone."""
    rollback = tick.loaded.undo == Control.ROLLBACK
    _stop_work(tick)
    imported = _unmanage(tick)
    if tick.loaded.vm_moref:
        settle_snapshots(tick)
    if imported:
        # The target may have written to its disks: the images are kept for an operator to examine.
        with tick.change() as (_, migration):
            drop_debts(migration, DebtKind.IMAGE)
    else:
        settle_images(tick)
    # A source that was off before the migration began is not started.
    was_on = tick.loaded.source.get("power") != PowerState.OFF
    if was_on and tick.loaded.shutdown_time is not None:
        tick.show("starting the source again")
        tick.agents.vmware.power_on(tick.loaded.vm_moref)
        tick.event("source.started", "the source runs again")
    if rollback:
        return Finish(State.ROLLED_BACK, "rolled back: the source is as it was")
    return Finish(State.CANCELLED, "cancelled by an operator")


def _stop_work(tick: Tick) -> None:
    """Stop transfers and conversions that an earlier tick may have left on the storage host."""
    disk, epoch = tick.agents.disk, tick.loaded.epoch
    current = open_pass(tick.loaded)
    transfers = [part.transfer_id for part in current.disks if part.mode] if current else []
    if tick.loaded.stage == Stage.VERIFYING:
        transfers += verify_ids(tick)
    stop_transfers(tick, transfers)
    if tick.loaded.stage == Stage.CONVERTING:
        try:
            disk.cancel_conversion(conversion_id(tick), epoch)
        except ServiceError as exc:
            if exc.reason != Reason.CONVERSION_NOT_FOUND:
                raise


def _unmanage(tick: Tick) -> bool:
    """Have CloudStack unmanage the machine and volumes; True if there was a machine."""
    settle_jobs(tick, {_STOP, _UNMANAGE, *map(_unmanage_purpose, tick.loaded.disks)})
    done = {job.purpose: job.resource_id for job in tick.fresh().jobs if job.done}
    vm_id = tick.loaded.target_vm_id or done.get("import_root", "")
    if not vm_id:
        return False
    if _UNMANAGE not in done:
        _unmanage_vm(tick, vm_id)
    for disk in tick.loaded.disks:
        # Attached volumes are unmanaged with the machine; one that is not attached is not.
        volume_id = done.get(f"import:{disk.key}", "")
        if volume_id and f"attach:{disk.key}" not in done:
            _unmanage_volume(tick, disk, volume_id)
    return True


def _unmanage_vm(tick: Tick, vm_id: str) -> None:
    """Stop the machine, forcibly, then unmanage it.

    The source starts only after the target has stopped: if both ran, they would corrupt the systems
    they share.
    """
    cloudstack = tick.agents.cloudstack
    try:
        state = cloudstack.get_vm(vm_id).state
    except ServiceError as exc:
        if exc.reason != Reason.VM_NOT_FOUND:
            raise
        return
    if state.lower() != "stopped":
        tick.show("stopping the target")
        run_job(tick, _STOP, lambda job_id: cloudstack.stop_vm(job_id, vm_id))
    tick.show("unmanaging the target")
    run_job(tick, _UNMANAGE, lambda job_id: cloudstack.unmanage_vm(job_id, vm_id))


def _unmanage_purpose(disk: tables.Disk) -> str:
    return f"undo:volume:{disk.key}"


def _unmanage_volume(tick: Tick, disk: tables.Disk, volume_id: str) -> None:
    run_job(
        tick,
        _unmanage_purpose(disk),
        lambda job_id: tick.agents.cloudstack.unmanage_volume(job_id, volume_id),
    )
