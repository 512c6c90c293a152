"""Changed block tracking: when it takes effect, and QueryChangedDiskAreas."""

from __future__ import annotations

from pyVmomi import vim, vmodl

from lab.esxi.model import ChangedAreas, EsxiError
from lab.vcenter.methods.calls import Call, Methods
from lab.vcenter.methods.tasks import fault_of
from lab.vcenter.world.settings import Settings
from lab.vcenter.world.vm_state import DiskRecord, SnapshotRecord, VmRecord
from lab.vcenter.world.world import World

METHODS = Methods()


def apply_tracking(world: World, record: VmRecord) -> None:
    """Switch the disks' tracking as the configuration says, as a stun of the VM does.

    Called at power-on, at resume, and when a snapshot is created or deleted, as the vSphere API
    reference documents for changeTrackingEnabled.
    """
    for disk in record.disks:
        wanted = record.wants_tracking(disk)
        if wanted != disk.tracked:
            world.disks.set_tracking(record.moref, disk.key, wanted)
            with world.change(record):
                disk.tracked = wanted
                disk.change_id = None


@METHODS.handle("QueryChangedDiskAreas")
def _query_changed_disk_areas(call: Call) -> vim.VirtualMachine.DiskChangeInfo:
    world, params = call.world, call.params
    with world.changed:
        record = call.vm
        disk = record.disk(params.deviceKey)
        if disk is None:
            raise vmodl.fault.InvalidArgument(
                invalidProperty="deviceKey", msg="A specified parameter was not correct: deviceKey"
            )
        if not 0 <= params.startOffset < disk.capacity_bytes:
            raise vmodl.fault.InvalidArgument(
                invalidProperty="startOffset",
                msg="A specified parameter was not correct: startOffset",
            )
        snapshot = _snapshot(record, params.snapshot, disk)
    try:
        page = world.disks.changed_areas(
            record.moref,
            snapshot.moref,
            disk.key,
            params.changeId,
            params.startOffset,
            max(1, world.settings.cbt_page_areas),
        )
    except EsxiError as error:
        raise fault_of(error, record) from error
    page = shaped(page, world.settings)
    return vim.VirtualMachine.DiskChangeInfo(
        startOffset=page.start,
        length=page.length,
        changedArea=[
            vim.VirtualMachine.DiskChangeInfo.DiskChangeExtent(start=start, length=length)
            for start, length in page.areas
        ],
    )


def _snapshot(
    record: VmRecord, reference: vim.vm.Snapshot | None, disk: DiskRecord
) -> SnapshotRecord:
    """The snapshot of a query. Raises FileFault if CBT has no data for it."""
    path = disk.path
    if reference is None:
        # Without a snapshot vCenter opens the live disk, which the running VM holds locked.
        raise _file_fault(path, "the file is locked; name a snapshot")
    snapshot = record.snapshot(reference._moId)
    if snapshot is None:
        raise vmodl.fault.ManagedObjectNotFound(
            obj=reference, msg=f"The snapshot {reference._moId} is not one of {record.name}"
        )
    frozen = snapshot.disks.get(disk.key)
    if frozen is None or frozen.change_id is None:
        raise _file_fault(frozen.path if frozen else path, "change tracking is not active")
    return snapshot


def _file_fault(path: str, reason: str) -> vim.fault.FileFault:
    return vim.fault.FileFault(file=path, msg=f"Error caused by file {path}: {reason}")


def shaped(page: ChangedAreas, settings: Settings) -> ChangedAreas:
    """The page, cut according to the settings: fewer bytes, gaps as separate pages."""
    end = page.start + page.length
    if settings.cbt_page_bytes:
        end = min(end, page.start + settings.cbt_page_bytes)
    first = next((start for start, _length in page.areas if start < end), None)
    if settings.cbt_empty_pages and first is not None and first > page.start:
        end = first
    areas = tuple(
        (start, min(start + length, end) - start) for start, length in page.areas if start < end
    )
    return ChangedAreas(page.start, end - page.start, areas)
