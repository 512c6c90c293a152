"""Virtual hardware of a VM, or of one of its snapshots, as vim devices."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pyVmomi import vim

from lab.scenario import Backing, Controller
from lab.vcenter.soap import constant
from lab.vcenter.world.inventory import Entity
from lab.vcenter.world.vm_state import (
    NIC_KEY,
    DiskRecord,
    SnapshotRecord,
    VmRecord,
    is_rdm,
)

_PCI, _PS2, _SIO = 100, 300, 400
_KIB = 1024

_CONTROLLERS: dict[Controller, tuple[type, str]] = {
    Controller.PVSCSI: (vim.vm.device.ParaVirtualSCSIController, "SCSI controller"),
    Controller.LSILOGIC: (vim.vm.device.VirtualLsiLogicController, "SCSI controller"),
    Controller.LSILOGIC_SAS: (vim.vm.device.VirtualLsiLogicSASController, "SCSI controller"),
    Controller.SATA: (vim.vm.device.VirtualAHCIController, "SATA controller"),
    Controller.NVME: (vim.vm.device.VirtualNVMEController, "NVME controller"),
}
_ADAPTERS: dict[str, type] = {
    "vmxnet3": vim.vm.device.VirtualVmxnet3,
    "e1000": vim.vm.device.VirtualE1000,
    "e1000e": vim.vm.device.VirtualE1000e,
}


def devices(
    record: VmRecord, entity: Entity, snapshot: SnapshotRecord | None = None
) -> list[vim.vm.device.VirtualDevice]:
    """All devices, in vSphere's order: controllers, fixed devices, disks, network adapters."""
    result = list(_fixed_devices())
    result += _disk_controllers(record)
    result += [_disk(record, entity, disk, snapshot) for disk in record.disks]
    result += [_nic(record, entity, index) for index in range(len(record.spec.nics))]
    return result


def disk_backing_paths(record: VmRecord, disk: DiskRecord) -> list[str]:
    """Files of the disk from the live one down to the base."""
    frozen = [s.disks[disk.key].path for s in record.snapshots if disk.key in s.disks]
    return list(dict.fromkeys([disk.path, *reversed(frozen)]))


@lru_cache(maxsize=1)
def _fixed_devices() -> tuple[vim.vm.device.VirtualDevice, ...]:
    """The devices that every VM has."""
    fixed = (
        vim.vm.device.VirtualIDEController(key=200, busNumber=0, deviceInfo=_label("IDE 0")),
        vim.vm.device.VirtualIDEController(key=201, busNumber=1, deviceInfo=_label("IDE 1")),
        vim.vm.device.VirtualPS2Controller(
            key=_PS2, busNumber=0, deviceInfo=_label("PS2 controller 0")
        ),
        vim.vm.device.VirtualPCIController(
            key=_PCI, busNumber=0, deviceInfo=_label("PCI controller 0")
        ),
        vim.vm.device.VirtualSIOController(
            key=_SIO, busNumber=0, deviceInfo=_label("SIO controller 0")
        ),
        vim.vm.device.VirtualKeyboard(
            key=600, controllerKey=_PS2, unitNumber=0, deviceInfo=_label("Keyboard")
        ),
        vim.vm.device.VirtualPointingDevice(
            key=700,
            controllerKey=_PS2,
            unitNumber=1,
            deviceInfo=_label("Pointing device"),
            backing=vim.vm.device.VirtualPointingDevice.DeviceBackingInfo(
                deviceName="", useAutoDetect=False, hostPointingDevice="autodetect"
            ),
        ),
        vim.vm.device.VirtualVideoCard(
            key=500,
            controllerKey=_PCI,
            unitNumber=0,
            videoRamSizeInKB=4096,
            numDisplays=1,
            deviceInfo=_label("Video card"),
        ),
    )
    return tuple(constant(device) for device in fixed)


def _disk_controllers(record: VmRecord) -> list[vim.vm.device.VirtualDevice]:
    seen: dict[int, tuple[Controller, int]] = {}
    for disk in record.disks:
        if disk.spec.controller is not Controller.IDE:
            seen.setdefault(disk.controller_key, (disk.spec.controller, disk.spec.bus))
    result = []
    for key, (controller, bus) in seen.items():
        kind, label = _CONTROLLERS[controller]
        device = kind(
            key=key,
            busNumber=bus,
            controllerKey=_PCI,
            deviceInfo=_label(f"{label} {bus}"),
            device=[d.key for d in record.disks if d.controller_key == key],
        )
        if isinstance(device, vim.vm.device.VirtualSCSIController):
            device.sharedBus = vim.vm.device.VirtualSCSIController.Sharing(record.spec.shared_bus)
            device.hotAddRemove = True
            device.scsiCtlrUnitNumber = 7
        result.append(device)
    return result


def _disk(
    record: VmRecord, entity: Entity, disk: DiskRecord, snapshot: SnapshotRecord | None
) -> vim.vm.device.VirtualDisk:
    frozen = snapshot.disks.get(disk.key) if snapshot is not None else None
    capacity = frozen.capacity_bytes if frozen else disk.capacity_bytes
    index = record.disks.index(disk) + 1
    return vim.vm.device.VirtualDisk(
        key=disk.key,
        controllerKey=disk.controller_key,
        unitNumber=disk.unit,
        capacityInKB=capacity // _KIB,
        capacityInBytes=capacity,
        diskObjectId=f"{record.moref.removeprefix('vm-')}-{disk.key}",
        deviceInfo=_label(f"Hard disk {index}", f"{capacity // _KIB:,} KB"),
        backing=_backing(record, entity, disk, snapshot),
    )


def _backing(
    record: VmRecord, entity: Entity, disk: DiskRecord, snapshot: SnapshotRecord | None
) -> Any:
    paths = disk_backing_paths(record, disk)
    change_id = disk.change_id if disk.tracked else None
    frozen = snapshot.disks.get(disk.key) if snapshot is not None else None
    if frozen is not None:
        paths = paths[paths.index(frozen.path) :]
        change_id = frozen.change_id
    elif snapshot is not None:
        change_id = None
    backing = _one_backing(entity, disk, paths[-1], None)
    for path in reversed(paths[:-1]):
        backing = _one_backing(entity, disk, path, backing)
    backing.changeId = change_id
    return backing


def _one_backing(entity: Entity, disk: DiskRecord, path: str, parent: Any) -> Any:
    datastore = vim.Datastore(entity.link("datastore").moref)
    if is_rdm(disk) and parent is None:
        physical = disk.spec.backing is Backing.RDM_PHYSICAL
        return vim.vm.device.VirtualDisk.RawDiskMappingVer1BackingInfo(
            fileName=path,
            datastore=datastore,
            lunUuid=f"02000000{disk.uuid.replace('-', '').lower()[:32]}",
            deviceName=f"vml.{disk.uuid.replace('-', '').lower()}",
            compatibilityMode="physicalMode" if physical else "virtualMode",
            diskMode="independent_persistent" if physical else disk.spec.mode,
            uuid=disk.uuid,
            sharing=disk.spec.sharing,
        )
    return vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
        fileName=path,
        datastore=datastore,
        diskMode=disk.spec.mode,
        split=False,
        writeThrough=False,
        thinProvisioned=disk.spec.thin,
        uuid=disk.uuid,
        contentId=disk.uuid.replace("-", "").lower(),
        parent=parent if not is_rdm(disk) else None,
        digestEnabled=False,
        deltaDiskFormat="redoLogFormat" if parent is not None else None,
        sharing=disk.spec.sharing,
    )


def _nic(record: VmRecord, entity: Entity, index: int) -> Any:
    spec, network = record.spec.nics[index], entity.links["nic"][index]
    reference = network.kind(network.moref)
    backing: vim.vm.device.VirtualDevice.BackingInfo
    if network.kind is vim.dvs.DistributedVirtualPortgroup:
        summary = f"DVSwitch: {network.moref}"
        backing = vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo(
            port=vim.dvs.PortConnection(
                switchUuid="50 2a 1b 7e 00 00 00 00-00 00 00 00 00 00 00 01",
                portgroupKey=network.moref,
                portKey=str(index),
            )
        )
    else:
        summary = network.name
        backing = vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(
            deviceName=network.name, useAutoDetect=False, network=reference
        )
    return _ADAPTERS[spec.adapter](
        key=NIC_KEY + index,
        controllerKey=_PCI,
        unitNumber=7 + index,
        deviceInfo=_label(f"Network adapter {index + 1}", summary),
        backing=backing,
        connectable=vim.vm.device.VirtualDevice.ConnectInfo(
            startConnected=spec.connected,
            allowGuestControl=True,
            connected=spec.connected and record.power == "poweredOn",
            status="ok",
        ),
        addressType="assigned",
        macAddress=record.macs[index],
        wakeOnLanEnabled=True,
    )


def _label(label: str, summary: str | None = None) -> vim.Description:
    return vim.Description(label=label, summary=summary or label)
