"""The `VCenter` port over pyVmomi."""

import asyncio
from collections.abc import Mapping, Sequence

from pyVmomi import vim, vmodl

from services.vmware_agent.errors import CbtReset, SnapshotNotFound, VCenterFault, VmNotFound
from services.vmware_agent.ports import Clock
from services.vmware_agent.vcenter.faults import fault_text
from services.vmware_agent.vcenter.inventory import Inventory, read_inventory
from services.vmware_agent.vcenter.property_collector import read_objects
from services.vmware_agent.vcenter.session import Connection, Session
from services.vmware_agent.vcenter.tasks import Tasks
from services.vmware_agent.vcenter.vm_properties import READABLE, VM_PATHS, VmProperties
from services.vmware_agent.vcenter.vmomi import snapshot as snapshot_ref
from services.vmware_agent.vcenter.vmomi import virtual_machine
from services.vmware_agent.vm import About, Area, ChangedAreaPage, SnapshotDisk, Vm, VmEntry

# Two batches are read at once, so that pyVmomi parses one while vCenter answers the other (1,000
# VMs of the lab in 1.2 to 1.5 s). More at once were not faster and would occupy more threads.
_BATCH_VMS = 100
_BATCHES_AT_ONCE = 2
# Folders, hosts and networks are read again if a VM refers to an unknown one, at most this often.
_INVENTORY_KEPT_SECONDS = 10.0


class VmomiVCenter:
    """See `ports.VCenter`. Lives on one event loop; blocking work is in the session's threads."""

    def __init__(self, session: Session, clock: Clock) -> None:
        self._session = session
        self._clock = clock
        self._tasks = Tasks(session, clock)
        self._inventory: Inventory | None = None
        self._inventory_read_at = 0.0
        self._reading = asyncio.Semaphore(_BATCHES_AT_ONCE)

    async def close(self) -> None:
        """Stop following tasks and log out."""
        await self._tasks.close()
        await self._session.close()

    async def about(self) -> About:
        """vCenter's version and identity; logs in if there is no session."""
        return await self._session.run("asking vCenter for its version", _about)

    async def list_entries(self) -> Sequence[VmEntry]:
        """All VMs and templates of all datacenters, with one property collector call per page."""
        return (await self._read_inventory()).entries

    async def get_vms(self, vms: Sequence[str]) -> Sequence[Vm]:
        """These VMs, with one property collector call per batch; missing VMs are left out."""
        batches = [vms[i : i + _BATCH_VMS] for i in range(0, len(vms), _BATCH_VMS)]
        results = await asyncio.gather(*map(self._read_batch, batches))
        read = [one for result in results for one in result]
        inventory = await self._inventory_for(read)
        by_moref = {one.moref: one.to_vm(inventory) for one in read}
        return [by_moref[vm] for vm in vms if vm in by_moref]

    async def get_vm(self, vm: str) -> Vm:
        """Everything about one VM. Raises VmNotFound, or VCenterFault if it cannot be read."""
        found = await self.get_vms([vm])
        if found:
            return found[0]
        if any(entry.moref == vm for entry in await self.list_entries()):
            raise VCenterFault(
                message=f"vCenter has VM {vm} but reports neither its hardware nor its power state",
                metadata={"moref": vm},
                hint="check in vCenter that the VM is accessible and its host connected, and that "
                "vcenter.user may read it",
            )
        raise VmNotFound(message=f"vCenter has no VM {vm}", metadata={"moref": vm})

    async def disk_usage(self, vm: str) -> Mapping[int, int]:
        """Bytes that each thin disk's files occupy, from layoutEx (vSphere API, FileLayoutEx)."""
        return await self._session.run(
            f"reading the files of VM {vm}", lambda connection: _disk_usage(connection, vm)
        )

    async def _read_batch(self, vms: Sequence[str]) -> "list[VmProperties]":
        async with self._reading:
            return await self._session.run("reading VMs", lambda connection: _read(connection, vms))

    async def _inventory_for(self, read: Sequence[VmProperties]) -> Inventory:
        """Names of folders, hosts and networks, cached until a VM refers to an unknown one.

        Some stay unknown (no permission, a deleted port group); the cache is then kept for a while.
        """
        inventory = self._inventory
        if inventory is not None and (
            self._clock.monotonic() < self._inventory_read_at + _INVENTORY_KEPT_SECONDS
            or all(one.known_to(inventory) for one in read)
        ):
            return inventory
        return await self._read_inventory()

    async def _read_inventory(self) -> Inventory:
        inventory = await self._session.run("reading the inventory", read_inventory)
        self._inventory, self._inventory_read_at = inventory, self._clock.monotonic()
        return inventory

    async def set_tracking(self, vm: str, disks: Sequence[str], timeout_seconds: float) -> None:
        """ReconfigVM_Task with changeTrackingEnabled and the disks' ctkEnabled keys."""
        specification = vim.vm.ConfigSpec(
            changeTrackingEnabled=True,
            extraConfig=[
                vim.option.OptionValue(key=f"{disk}.ctkEnabled", value="TRUE") for disk in disks
            ],
        )
        await self._tasks.run(
            f"enabling changed block tracking of VM {vm}",
            lambda connection: virtual_machine(connection.stub, vm).ReconfigVM_Task(specification),
            timeout_seconds,
        )

    async def create_snapshot(
        self, vm: str, name: str, description: str, *, quiesce: bool, timeout_seconds: float
    ) -> str:
        """CreateSnapshot_Task without memory."""
        return await self._tasks.run(
            f"creating snapshot {name!r} of VM {vm}",
            lambda connection: virtual_machine(connection.stub, vm).CreateSnapshot_Task(
                name=name, description=description, memory=False, quiesce=quiesce
            ),
            timeout_seconds,
        )

    async def remove_snapshot(self, snapshot: str, timeout_seconds: float) -> None:
        """RemoveSnapshot_Task without children, with consolidation."""
        await self._tasks.run(
            f"removing snapshot {snapshot}",
            lambda connection: snapshot_ref(connection.stub, snapshot).RemoveSnapshot_Task(
                removeChildren=False, consolidate=True
            ),
            timeout_seconds,
        )

    async def consolidate(self, vm: str, timeout_seconds: float) -> None:
        """ConsolidateVMDisks_Task."""
        await self._tasks.run(
            f"consolidating the disks of VM {vm}",
            lambda connection: virtual_machine(connection.stub, vm).ConsolidateVMDisks_Task(),
            timeout_seconds,
        )

    async def snapshot_disks(self, snapshot: str) -> tuple[SnapshotDisk, ...]:
        """Read from the snapshot's configuration, because the VM's shows its present disks."""
        return await self._session.run(
            f"reading snapshot {snapshot}",
            lambda connection: _snapshot_disks(connection, snapshot),
        )

    async def changed_areas(
        self, vm: str, snapshot: str, disk_key: int, change_id: str, start: int
    ) -> ChangedAreaPage:
        """One call of QueryChangedDiskAreas."""
        return await self._session.run(
            f"asking for changed areas of disk {disk_key} of VM {vm}",
            lambda connection: _changed_areas(connection, vm, snapshot, disk_key, change_id, start),
        )

    async def power_on(self, vm: str, timeout_seconds: float) -> None:
        """PowerOnVM_Task."""
        await self._tasks.run(
            f"powering on VM {vm}",
            lambda connection: virtual_machine(connection.stub, vm).PowerOnVM_Task(),
            timeout_seconds,
        )

    async def power_off(self, vm: str, timeout_seconds: float) -> None:
        """PowerOffVM_Task."""
        await self._tasks.run(
            f"powering off VM {vm}",
            lambda connection: virtual_machine(connection.stub, vm).PowerOffVM_Task(),
            timeout_seconds,
        )

    async def shutdown_guest(self, vm: str) -> None:
        """ShutdownGuest; returns once VMware Tools have the request."""
        await self._session.run(
            f"asking the guest of VM {vm} to shut down",
            lambda connection: virtual_machine(connection.stub, vm).ShutdownGuest(),
            repeat=False,
        )


def _about(connection: Connection) -> About:
    about = connection.content.about
    return About(
        product=about.fullName,
        api_version=about.apiVersion,
        instance_uuid=about.instanceUuid or "",
        thumbprint_sha1=connection.thumbprint_sha1,
    )


def _read(connection: Connection, vms: Sequence[str]) -> list[VmProperties]:
    references = [virtual_machine(connection.stub, vm) for vm in vms]
    found = read_objects(connection, references, VM_PATHS)
    return [VmProperties(one) for one in found if one.properties.keys() >= READABLE]


def _disk_usage(connection: Connection, vm: str) -> Mapping[int, int]:
    reference = virtual_machine(connection.stub, vm)
    found = read_objects(connection, [reference], ["config.hardware", "layoutEx"])
    properties = found[0].properties if found else {}
    hardware, layout = properties.get("config.hardware"), properties.get("layoutEx")
    if not isinstance(hardware, vim.vm.VirtualHardware):
        return {}
    if not isinstance(layout, vim.vm.FileLayoutEx):
        return {}
    # A thick disk's file is always as large as the disk, so its size says nothing about use.
    thin = {d.key for d in hardware.device if getattr(d.backing, "thinProvisioned", None) is True}
    sizes = {file.key: file.size for file in layout.file or ()}
    return {
        disk.key: sum(sizes.get(key, 0) for unit in disk.chain or () for key in unit.fileKey)
        for disk in layout.disk or ()
        if disk.key in thin
    }


def _snapshot_disks(connection: Connection, snapshot: str) -> tuple[SnapshotDisk, ...]:
    reference = snapshot_ref(connection.stub, snapshot)
    found = read_objects(connection, [reference], ["config.hardware"])
    hardware = found[0].properties.get("config.hardware") if found else None
    if not isinstance(hardware, vim.vm.VirtualHardware):
        raise SnapshotNotFound(
            message=f"vCenter has no snapshot {snapshot}", metadata={"snapshot": snapshot}
        )
    return tuple(
        SnapshotDisk(
            key=device.key,
            path=getattr(device.backing, "fileName", None) or "",
            capacity_bytes=int(device.capacityInBytes or device.capacityInKB * 1024),
            change_id=getattr(device.backing, "changeId", None) or None,
        )
        for device in hardware.device
        if isinstance(device, vim.vm.device.VirtualDisk)
    )


def _changed_areas(
    connection: Connection, vm: str, snapshot: str, disk_key: int, change_id: str, start: int
) -> ChangedAreaPage:
    try:
        info = virtual_machine(connection.stub, vm).QueryChangedDiskAreas(
            snapshot=snapshot_ref(connection.stub, snapshot),
            deviceKey=disk_key,
            startOffset=start,
            changeId=change_id,
        )
    except (vim.fault.FileFault, vmodl.fault.InvalidArgument, vim.fault.NotFound) as fault:
        # FileFault: tracking was off, was reset, or the id is of another disk. InvalidArgument on
        # deviceKey: the disk has no tracking at all (VMware KB 2090639 and 1033816).
        kind = (
            "invalid_argument" if isinstance(fault, vmodl.fault.InvalidArgument) else "file_fault"
        )
        raise CbtReset.of(
            disk_key,
            kind,
            f"vCenter does not know what changed on disk {disk_key} of VM {vm}: "
            f"{fault_text(fault)}",
        ) from fault
    return ChangedAreaPage(
        start=int(info.startOffset),
        length=int(info.length),
        areas=tuple(Area(int(area.start), int(area.length)) for area in info.changedArea or []),
    )
