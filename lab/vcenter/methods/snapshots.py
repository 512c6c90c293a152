"""Snapshots: creation with quiesce semantics, removal, consolidation."""

from __future__ import annotations

from collections.abc import Callable

from pyVmomi import vim, vmodl

from lab.esxi.model import EsxiError
from lab.vcenter.methods.calls import Call, Methods
from lab.vcenter.methods.tracking import apply_tracking
from lab.vcenter.properties.vms import tools_running
from lab.vcenter.world.vm_state import (
    SnapshotDiskRecord,
    SnapshotRecord,
    VmRecord,
    now,
)
from lab.vcenter.world.world import POWERED_ON, World

METHODS = Methods()

MAX_LEVELS = 32
"""vSphere allows 32 snapshots in a chain (vSphere documentation, "Snapshot Limitations")."""


@METHODS.handle("CreateSnapshot_Task")
def _create_snapshot(call: Call) -> vim.Task:
    return _start_creation(call, quiesce=bool(call.params.quiesce))


@METHODS.handle("CreateSnapshotEx_Task")
def _create_snapshot_ex(call: Call) -> vim.Task:
    return _start_creation(call, quiesce=call.params.quiesceSpec is not None)


def _start_creation(call: Call, *, quiesce: bool) -> vim.Task:
    record, params, world = call.vm, call.params, call.world
    if not params.name:
        raise vim.fault.InvalidName(name="", entity=call.this, msg="A snapshot needs a name")

    def effect() -> vim.vm.Snapshot:
        return create(
            world,
            record,
            params.name,
            params.description or "",
            memory=bool(params.memory),
            quiesce=quiesce,
        )

    return call.tasks.run(call.method, record, call.user, effect)


def create(
    world: World, record: VmRecord, name: str, description: str, *, memory: bool, quiesce: bool
) -> vim.vm.Snapshot:
    """Take a snapshot. Raises the SnapshotFaults that vSphere documents."""
    _check_snapshottable(record, memory=memory)
    quiesced = quiesce and tools_running(record)
    if quiesced:
        _quiesce(record)
    apply_tracking(world, record)
    number = world.store.next_number("snapshot")
    moref = f"snapshot-{number}"
    keys = [disk.key for disk in record.disks if disk.spec.trackable]
    frozen = world.disks.create_snapshot(record.moref, moref, keys) if keys else {}
    paths = _current_paths(world, record)
    with world.change(record):
        record.snapshots.append(
            SnapshotRecord(
                moref=moref,
                number=number,
                name=name,
                description=description,
                created=now(),
                power=record.power if memory else "poweredOff",
                quiesced=quiesced,
                disks={
                    key: SnapshotDiskRecord(disk.path, disk.change_id, disk.capacity_bytes)
                    for key, disk in frozen.items()
                },
            )
        )
        for disk in record.disks:
            disk.path = paths[disk.key]
            if disk.key in frozen:
                disk.change_id = frozen[disk.key].change_id
    return vim.vm.Snapshot(moref)


def _check_snapshottable(record: VmRecord, *, memory: bool) -> None:
    if len(record.snapshots) >= MAX_LEVELS:
        raise vim.fault.TooManySnapshotLevels(
            msg=f"Snapshot hierarchy is too deep: at most {MAX_LEVELS} levels."
        )
    running = record.power == POWERED_ON
    if running and record.spec.shared_bus != "noSharing":
        raise vim.fault.SnapshotIncompatibleDeviceInVm(
            fault=vim.fault.SharedBusControllerNotSupported(device="SCSI controller 0"),
            msg="The virtual machine has a SCSI controller configured for bus sharing.",
        )
    shared = any(disk.spec.sharing != "sharingNone" for disk in record.disks)
    if running and shared:
        raise vim.fault.SnapshotIncompatibleDeviceInVm(
            fault=vim.fault.DeviceNotSupported(device="multi-writer disk"),
            msg="The virtual machine has a disk in multi-writer mode.",
        )
    independent = any(disk.spec.mode.startswith("independent") for disk in record.disks)
    if memory and running and independent:
        raise vim.fault.MemorySnapshotOnIndependentDisk(
            msg="Cannot take a memory snapshot, the virtual machine has independent disks.",
        )


def _quiesce(record: VmRecord) -> None:
    behaviour = record.settings.get("quiesce", "normal")
    if behaviour == "application-fault":
        raise vim.fault.ApplicationQuiesceFault(
            msg="An error occurred while quiescing the virtual machine: a VSS writer failed."
        )
    if behaviour == "filesystem-fault":
        raise vim.fault.FilesystemQuiesceFault(
            msg="An error occurred while quiescing the virtual machine: file systems not frozen."
        )


@METHODS.handle("RemoveSnapshot_Task")
def _remove_snapshot(call: Call) -> vim.Task:
    world = call.world
    record, _snapshot = world.snapshot(call.this)
    children, merge = bool(call.params.removeChildren), call.params.consolidate is not False

    def effect() -> None:
        # Looked up again, because another task may have removed it while this one waited.
        _record, present = world.snapshot(call.this)
        first = record.snapshots.index(present)
        doomed = record.snapshots[first:] if children else [present]
        remove(world, record, doomed, merge=merge)

    return _start_removal(call, record, effect)


@METHODS.handle("RemoveAllSnapshots_Task")
def _remove_all_snapshots(call: Call) -> vim.Task:
    world, record = call.world, call.vm
    merge = call.params.consolidate is not False

    def effect() -> None:
        remove(world, record, list(record.snapshots), merge=merge)

    return _start_removal(call, record, effect)


@METHODS.handle("ConsolidateVMDisks_Task")
def _consolidate(call: Call) -> vim.Task:
    world, record = call.world, call.vm
    return _start_removal(call, record, lambda: consolidate(world, record))


def _start_removal(call: Call, record: VmRecord, effect: Callable[[], None]) -> vim.Task:
    return call.tasks.run(
        call.method,
        record,
        call.user,
        effect,
        seconds=call.world.settings.remove_snapshot_seconds,
    )


def remove(world: World, record: VmRecord, doomed: list[SnapshotRecord], *, merge: bool) -> None:
    """Remove snapshots from the tree, newest first; with ``merge`` merge their files."""
    for snapshot in reversed(doomed):
        with world.change(record):
            record.snapshots.remove(snapshot)
            if snapshot.disks:
                record.unconsolidated.append(snapshot.moref)
    apply_tracking(world, record)
    if merge:
        consolidate(world, record)


def consolidate(world: World, record: VmRecord) -> None:
    """Merge files left by removed snapshots. Raises FileLocked if the VM's setting asks for it."""
    if record.unconsolidated and record.settings.get("consolidation") == "fails":
        raise vim.fault.FileLocked(
            file=record.disks[0].path,
            msg=f"Unable to access file {record.disks[0].path} since it is locked",
        )
    for moref in list(record.unconsolidated):
        try:
            world.disks.remove_snapshot(record.moref, moref)
        except EsxiError as error:
            if error.kind != "not_found":
                raise
            # An earlier attempt merged the files and was killed before it recorded that.
        with world.change(record):
            record.unconsolidated.remove(moref)
    refresh_paths(world, record)


def refresh_paths(world: World, record: VmRecord) -> None:
    """Record the file names that a merge has changed."""
    paths = _current_paths(world, record)
    shown = {
        snapshot.moref: world.disks.snapshot_disks(record.moref, snapshot.moref)
        for snapshot in record.snapshots
        if snapshot.disks
    }
    with world.change(record):
        for disk in record.disks:
            disk.path = paths[disk.key]
        for snapshot in record.snapshots:
            for key, frozen in shown.get(snapshot.moref, {}).items():
                snapshot.disks[key].path = frozen.path


def _current_paths(world: World, record: VmRecord) -> dict[int, str]:
    return {disk.key: world.disks.current_path(record.moref, disk.key) for disk in record.disks}


@METHODS.handle("RenameSnapshot")
def _rename_snapshot(call: Call) -> None:
    record, snapshot = call.world.snapshot(call.this)
    with call.world.change(record):
        if call.params.name is not None:
            snapshot.name = call.params.name
        if call.params.description is not None:
            snapshot.description = call.params.description


@METHODS.handle("RevertToSnapshot_Task")
def _revert(call: Call) -> vim.Task:
    raise vmodl.fault.NotSupported(msg="The lab keeps snapshot chains straight: no revert.")
