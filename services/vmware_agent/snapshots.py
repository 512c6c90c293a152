"""Creates and removes the snapshots that passes read. Every call may be repeated."""

from dataclasses import dataclass
from enum import Enum

import structlog

from services.kit.failure import ServiceError
from services.vmware_agent.errors import (
    ConsolidationNeeded,
    InvalidQuery,
    QuiesceFailed,
    SnapshotNotFound,
    VCenterBusy,
    VCenterFault,
)
from services.vmware_agent.ports import Clock, VCenter
from services.vmware_agent.vm import PowerState, Snapshot, SnapshotDisk, Vm
from services.vmware_agent.waiting import Backoff, Deadline

_log = structlog.stdlib.get_logger(__name__)

# vSphere's own limit for a snapshot's name.
LONGEST_NAME = 80


class Quiesce(Enum):
    """Whether the guest's file systems are frozen for a snapshot."""

    AUTO = "auto"
    REQUIRED = "true"
    OFF = "false"


@dataclass(frozen=True)
class SnapshotView:
    """A snapshot and its disks."""

    snapshot: Snapshot
    disks: tuple[SnapshotDisk, ...]


@dataclass(frozen=True)
class Created:
    """The snapshot that `create_snapshot` created or found."""

    view: SnapshotView
    existed: bool


async def create_snapshot(
    vcenter: VCenter,
    clock: Clock,
    vm_moref: str,
    name: str,
    *,
    description: str = "",
    quiesce: Quiesce = Quiesce.AUTO,
    timeout_seconds: float,
) -> Created:
    """Take a snapshot without memory, or return the VM's snapshot with this name.

    The name is looked up before every attempt, so that a call repeated after a crash, a timeout or
    a lost connection finds the snapshot of the first call. Waits for other tasks of the VM. With
    AUTO, a guest that cannot be quiesced gets a crash-consistent snapshot instead. vSphere ignores
    quiescing when the VM is off or has no Tools; with REQUIRED, a running VM without Tools raises
    QuiesceFailed. Raises InvalidQuery, VmNotFound, VCenterBusy, VCenterTimeout, SnapshotLimit,
    DatastoreFull.
    """
    if not name or len(name) > LONGEST_NAME:
        raise InvalidQuery(message=f"a snapshot's name has 1 to {LONGEST_NAME} characters")
    deadline = Deadline(clock, timeout_seconds)
    backoff = Backoff(clock, deadline)
    while True:
        vm = await vcenter.get_vm(vm_moref)
        existing = vm.snapshot_named(name)
        if existing is not None:
            return Created(await _view(vcenter, existing), existed=True)
        try:
            made = await vcenter.create_snapshot(
                vm_moref,
                name,
                description,
                quiesce=_wants_quiescing(vm, quiesce),
                timeout_seconds=deadline.remaining_seconds,
            )
        except VCenterBusy:
            if not await backoff.pause():
                raise
        except QuiesceFailed as error:
            if quiesce is Quiesce.REQUIRED:
                raise
            _log.warning(
                "the guest cannot be quiesced: the snapshot will be crash-consistent",
                action="snapshot.quiesce_failed",
                vm=vm_moref,
                error=error.message,
            )
            quiesce = Quiesce.OFF
        else:
            _log.info("created a snapshot", action="snapshot.created", vm=vm_moref, snapshot=made)
            kept = await _first_of_name(vcenter, vm_moref, name, made)
            if kept.moref != made:
                seconds = deadline.remaining_seconds
                await remove_snapshot(
                    vcenter, clock, vm_moref, snapshot_moref=made, timeout_seconds=seconds
                )
            return Created(await _view(vcenter, kept), existed=kept.moref != made)


async def remove_snapshot(
    vcenter: VCenter,
    clock: Clock,
    vm_moref: str,
    *,
    snapshot_moref: str = "",
    name: str = "",
    timeout_seconds: float,
) -> bool:
    """Remove one snapshot by moref or name; False if there is none.

    Consolidates the disks if vCenter asks for it. Waits for other tasks of the VM, and repeats a
    removal that failed with a transient fault. Whether the snapshot is removed is read from the
    VM's snapshot tree, so a removal whose answer was lost counts as done. If several snapshots have
    the name, all of them are removed if it has v2c's prefix, otherwise none (InvalidQuery).
    Raises VmNotFound, VCenterBusy, VCenterTimeout, ConsolidationNeeded.
    """
    if not (snapshot_moref or name):
        raise InvalidQuery(message="neither moref nor name of a snapshot is given")
    deadline = Deadline(clock, timeout_seconds)
    backoff = Backoff(clock, deadline)
    removed = False
    while True:
        vm = await vcenter.get_vm(vm_moref)
        found = _meant(vm, snapshot_moref, name)
        if not found:
            break
        removed = True
        try:
            await vcenter.remove_snapshot(found[0].moref, deadline.remaining_seconds)
        except SnapshotNotFound:
            continue  # Another client removed it meanwhile: read the tree again.
        except (VCenterBusy, VCenterFault) as error:
            if not error.retryable or not await backoff.pause():
                raise
        else:
            _log.info(
                "removed a snapshot",
                action="snapshot.removed",
                vm=vm_moref,
                snapshot=found[0].moref,
            )
    if vm.consolidation_needed:  # Perhaps since an earlier call that was interrupted.
        await consolidate(vcenter, clock, vm_moref, deadline.remaining_seconds)
    return removed


async def consolidate(
    vcenter: VCenter, clock: Clock, vm_moref: str, timeout_seconds: float
) -> None:
    """Consolidate the VM's disks until vCenter no longer asks for it.

    A backup proxy or an NFC connection that is closed late locks a file for minutes. Therefore
    failures are retried until the deadline; then ConsolidationNeeded is raised from the last one.
    """
    deadline = Deadline(clock, timeout_seconds)
    backoff = Backoff(clock, deadline)
    while (await vcenter.get_vm(vm_moref)).consolidation_needed:
        cause: ServiceError | None = None
        try:
            await vcenter.consolidate(vm_moref, deadline.remaining_seconds)
        except (VCenterBusy, VCenterFault) as error:
            cause = error
        else:
            if not (await vcenter.get_vm(vm_moref)).consolidation_needed:
                return
        if not await backoff.pause():
            why = f": {cause.message}" if cause is not None else ""
            raise ConsolidationNeeded(
                message=f"the disks of VM {vm_moref} could not be consolidated in time{why}",
                metadata={"vm": vm_moref},
            ) from cause


async def list_snapshots(
    vcenter: VCenter, vm_moref: str, name_prefix: str = ""
) -> tuple[SnapshotView, ...]:
    """The VM's snapshots whose name starts with `name_prefix`, oldest first, with their disks."""
    vm = await vcenter.get_vm(vm_moref)
    views = []
    for snapshot in sorted(vm.all_snapshots(), key=lambda one: one.create_time):
        if not snapshot.name.startswith(name_prefix):
            continue
        try:
            views.append(await _view(vcenter, snapshot))
        except SnapshotNotFound:
            continue  # The snapshot was removed after the tree was read.
    return tuple(views)


def _wants_quiescing(vm: Vm, quiesce: Quiesce) -> bool:
    """Whether to ask vSphere to quiesce. Raises QuiesceFailed if REQUIRED is not possible."""
    if quiesce is Quiesce.OFF or vm.power is not PowerState.ON:
        return False  # The disks of a VM that is off are consistent.
    if quiesce is Quiesce.REQUIRED and not vm.tools_running:
        raise QuiesceFailed(
            message=f"VM {vm.name!r} cannot be quiesced: VMware Tools do not run in it",
            retryable=False,
        )
    return vm.tools_running


def _meant(vm: Vm, snapshot_moref: str, name: str) -> list[Snapshot]:
    if snapshot_moref:
        return [one for one in vm.all_snapshots() if one.moref == snapshot_moref]
    found = [one for one in vm.all_snapshots() if one.name == name]
    if len(found) > 1 and not found[0].ours:
        listed = ", ".join(one.moref for one in found)
        raise InvalidQuery(
            message=f"VM {vm.name!r} has {len(found)} snapshots named {name!r}: {listed}",
            hint="give the snapshot's moref",
        )
    return found


async def _first_of_name(vcenter: VCenter, vm_moref: str, name: str, made: str) -> Snapshot:
    """The oldest snapshot with this name, which is the one nearest to the root.

    There are two if the task of an earlier call, which had timed out, ended after this call looked
    for the name. Every caller then uses the oldest.
    """
    vm = await vcenter.get_vm(vm_moref)
    first = vm.snapshot_named(name)
    if first is None:
        raise SnapshotNotFound(
            message=f"snapshot {made} of VM {vm.name!r} vanished right after it was made"
        )
    return first


async def _view(vcenter: VCenter, snapshot: Snapshot) -> SnapshotView:
    return SnapshotView(snapshot, await vcenter.snapshot_disks(snapshot.moref))
