"""Cancel and rollback: what was made is taken back, and only then the migration has ended."""

from services.orchestrator import tables
from services.orchestrator.debts import IMAGE, forgive, pay_images, pay_snapshots
from services.orchestrator.jobs import run_job
from services.orchestrator.stages import State
from services.orchestrator.tick import Finish, Outcome, Tick

__all__ = ["undo"]


def undo(tick: Tick) -> Outcome:
    """Take back what the migration has made; repeated until nothing of it is left."""
    rollback = tick.migration.undo == "rollback"
    _stop_work(tick)
    imported = _let_go(tick)
    if tick.migration.vm_moref:
        pay_snapshots(tick)
    if imported:
        # The target may have written to its disks: they stay for an operator to look at.
        with tick.change() as (session, migration):
            forgive(session, tick.store.clock, migration, IMAGE)
    else:
        pay_images(tick)
    if tick.migration.shutdown_time is not None:
        tick.say("starting the source again")
        tick.agents.vmware.power_on(tick.migration.vm_moref)
        tick.event("source.started", "the source runs again")
    if rollback:
        return Finish(State.ROLLED_BACK, "rolled back: the source runs again")
    return Finish(State.CANCELLED, "cancelled by an operator")


def _stop_work(tick: Tick) -> None:
    """Stop transfers that an earlier tick may have left running."""
    for row in tick.migration.passes:
        if row.end_time is None:
            for part in row.disks:
                if part.mode and not part.durable:
                    _cancel_transfer(tick, part)


def _cancel_transfer(tick: Tick, part: tables.PassDisk) -> None:
    tick.agents.disk.cancel_transfer(part.transfer_id, tick.migration.epoch)


def _let_go(tick: Tick) -> bool:
    """Make CloudStack forget machine and volumes; the machine is stopped for certain first.

    Two running copies of one machine corrupt what they talk to, so the source starts only after
    the target has stopped.
    """
    vm_id = tick.migration.target_vm_id
    if not vm_id:
        return False
    cloudstack = tick.agents.cloudstack
    tick.say("stopping the target")
    if cloudstack.get_vm(vm_id).state.lower() != "stopped":
        run_job(tick, "undo:stop", lambda job_id: cloudstack.stop_vm(job_id, vm_id))
    tick.say("letting go of the target")
    # Attached volumes go with the machine; one that was imported but not attached does not.
    attached = {j.purpose.removeprefix("attach:") for j in tick.migration.jobs if j.done}
    run_job(tick, "undo:unmanage", lambda job_id: cloudstack.unmanage_vm(job_id, vm_id))
    for disk in tick.migration.disks:
        if disk.volume_id and not disk.is_root and str(disk.key) not in attached:
            _unmanage_volume(tick, disk)
    return True


def _unmanage_volume(tick: Tick, disk: tables.Disk) -> None:
    run_job(
        tick,
        f"undo:volume:{disk.key}",
        lambda job_id: tick.agents.cloudstack.unmanage_volume(job_id, disk.volume_id),
    )
