"""A VM's disks and network adapters, read from vCenter's device list."""

from collections.abc import Iterable, Mapping

from pyVmomi import vim

from services.vmware_agent.vm import (
    ControllerType,
    Disk,
    DiskController,
    DiskObstacle,
    Nic,
    disk_units,
)

_CONTROLLERS: tuple[tuple[type[vim.vm.device.VirtualController], ControllerType, str], ...] = (
    (vim.vm.device.ParaVirtualSCSIController, ControllerType.SCSI, "pvscsi"),
    (vim.vm.device.VirtualLsiLogicSASController, ControllerType.SCSI, "lsisas"),
    (vim.vm.device.VirtualLsiLogicController, ControllerType.SCSI, "lsilogic"),
    (vim.vm.device.VirtualBusLogicController, ControllerType.SCSI, "buslogic"),
    (vim.vm.device.VirtualSCSIController, ControllerType.SCSI, "scsi"),
    (vim.vm.device.VirtualSATAController, ControllerType.SATA, "sata"),
    (vim.vm.device.VirtualNVMEController, ControllerType.NVME, "nvme"),
    (vim.vm.device.VirtualIDEController, ControllerType.IDE, "ide"),
)
_NICS: tuple[tuple[type[vim.vm.device.VirtualEthernetCard], str], ...] = (
    (vim.vm.device.VirtualVmxnet3, "vmxnet3"),
    (vim.vm.device.VirtualVmxnet2, "vmxnet2"),
    (vim.vm.device.VirtualVmxnet, "vmxnet"),
    (vim.vm.device.VirtualE1000e, "e1000e"),
    (vim.vm.device.VirtualE1000, "e1000"),
    (vim.vm.device.VirtualPCNet32, "pcnet32"),
    (vim.vm.device.VirtualSriovEthernetCard, "sriov"),
)
# Backings that snapshots cover and whose BackingInfo has a changeId.
_TRACKED_BACKINGS = (
    vim.vm.device.VirtualDisk.FlatVer2BackingInfo,
    vim.vm.device.VirtualDisk.SparseVer2BackingInfo,
    vim.vm.device.VirtualDisk.SeSparseBackingInfo,
    vim.vm.device.VirtualDisk.RawDiskMappingVer1BackingInfo,
)
_RAW_BACKINGS = (
    vim.vm.device.VirtualDisk.RawDiskVer2BackingInfo,
    vim.vm.device.VirtualDisk.PartitionedRawDiskVer2BackingInfo,
)

ExtraConfig = Mapping[str, str]
Devices = Iterable[vim.vm.device.VirtualDevice]


def read_extra_config(options: Iterable[vim.option.OptionValue]) -> ExtraConfig:
    """Keys, in lower case because vSphere ignores their case, and values, both as text."""
    return {option.key.lower(): str(option.value) for option in options}


def read_disks(devices: Devices, extra: ExtraConfig) -> tuple[Disk, ...]:
    """The disks among `devices`, ordered by `Disk.unit`.

    A disk without a controller or unit number, which has no address, is left out; vCenter reports
    such a disk only while a device is being added.
    """
    controllers = {c.key: c for c in map(_controller, devices) if c is not None}
    placed = [
        (device, controllers[device.controllerKey], device.unitNumber)
        for device in devices
        if isinstance(device, vim.vm.device.VirtualDisk)
        and device.controllerKey in controllers
        and device.unitNumber is not None
    ]
    shared = {
        device.key
        for device in devices
        if getattr(device, "sharedBus", None) not in (None, "noSharing")
    }
    units = disk_units(tuple((device.key, at, number) for device, at, number in placed))
    disks = (
        _disk(device, at, number, units[device.key], extra, shared_bus=at.key in shared)
        for device, at, number in placed
    )
    return tuple(sorted(disks, key=lambda disk: disk.unit))


def _controller(device: vim.vm.device.VirtualDevice) -> DiskController | None:
    for kind, family, model in _CONTROLLERS:
        if isinstance(device, kind):
            return DiskController(device.key, family, model, device.busNumber)
    return None


def _disk(
    device: vim.vm.device.VirtualDisk,
    controller: DiskController,
    unit_number: int,
    unit: int,
    extra: ExtraConfig,
    *,
    shared_bus: bool,
) -> Disk:
    backing = device.backing
    tracking = extra.get(f"{controller.type.value}{controller.bus}:{unit_number}.ctkenabled")
    return Disk(
        key=device.key,
        unit=unit,
        label=_label(device),
        controller=controller,
        unit_number=unit_number,
        path=getattr(backing, "fileName", None) or "",
        # capacityInBytes exists since API 5.5.
        capacity_bytes=int(device.capacityInBytes or device.capacityInKB * 1024),
        mode=str(getattr(backing, "diskMode", None) or ""),
        backing=backing_kind(backing),
        thin=bool(getattr(backing, "thinProvisioned", False)),
        tracking_enabled=None if tracking is None else is_true(tracking),
        obstacles=tuple(_obstacles(backing, shared_bus=shared_bus)),
    )


def _obstacles(backing: object, *, shared_bus: bool) -> Iterable[DiskObstacle]:
    if str(getattr(backing, "diskMode", None) or "").startswith("independent"):
        yield DiskObstacle.INDEPENDENT
    if getattr(backing, "compatibilityMode", None) == "physicalMode":
        yield DiskObstacle.PHYSICAL_RDM
    if shared_bus:
        yield DiskObstacle.SHARED_BUS
    if getattr(backing, "sharing", None) == "sharingMultiWriter":
        yield DiskObstacle.MULTI_WRITER
    if isinstance(backing, _RAW_BACKINGS):
        yield DiskObstacle.RAW_DISK
    elif not isinstance(backing, _TRACKED_BACKINGS):
        yield DiskObstacle.UNKNOWN_BACKING


def backing_kind(backing: object) -> str:
    """The backing's short type: "FlatVer2" of vim.vm.device.VirtualDisk.FlatVer2BackingInfo."""
    return type(backing).__name__.rsplit(".", 1)[-1].removesuffix("BackingInfo")


def is_true(value: str) -> bool:
    """Whether an extra-configuration value is true, in any case ("TRUE", "true")."""
    return value.strip().lower() in {"true", "1", "yes"}


def read_nics(devices: Devices, networks: Mapping[str, str]) -> tuple[Nic, ...]:
    """The network adapters in the order of device keys.

    `networks` has the port groups' names by key and by moref.
    """
    cards = sorted(
        (device for device in devices if isinstance(device, vim.vm.device.VirtualEthernetCard)),
        key=lambda card: card.key,
    )
    return tuple(
        Nic(
            key=card.key,
            index=index,
            label=_label(card),
            network=_network(card.backing, networks),
            mac=(card.macAddress or "").lower(),
            adapter=next((name for kind, name in _NICS if isinstance(card, kind)), "unknown"),
            connected=card.connectable is None or bool(card.connectable.startConnected),
        )
        for index, card in enumerate(cards)
    )


def network_keys(devices: Devices) -> set[str]:
    """Keys of the networks that adapters refer to by key instead of by name."""
    keys = {
        _network_key(card.backing)
        for card in devices
        if isinstance(card, vim.vm.device.VirtualEthernetCard)
    }
    return keys - {""}


def _network_key(backing: object) -> str:
    match backing:
        case vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo(port=port):
            return port.portgroupKey or ""
        case vim.vm.device.VirtualEthernetCard.OpaqueNetworkBackingInfo(opaqueNetworkId=key):
            return str(key)
    return ""


def _network(backing: object, networks: Mapping[str, str]) -> str:
    key = _network_key(backing)
    if key:
        return networks.get(key, key)
    return str(getattr(backing, "deviceName", None) or "")


def read_passthrough(devices: Devices) -> tuple[str, ...]:
    """Labels of the host's devices that are passed through to the VM (PCI, vGPU, host USB)."""
    kinds = (vim.vm.device.VirtualPCIPassthrough, vim.vm.device.VirtualUSB)
    return tuple(_label(device) for device in devices if isinstance(device, kinds))


def has_vtpm(devices: Devices) -> bool:
    """Whether a virtual TPM is among the devices."""
    return any(isinstance(device, vim.vm.device.VirtualTPM) for device in devices)


def _label(device: vim.vm.device.VirtualDevice) -> str:
    info = device.deviceInfo
    return info.label if info is not None else f"device {device.key}"


def has_encrypted_disk(devices: Devices) -> bool:
    """Whether a disk is encrypted by vSphere: its backing then has a keyId (since 6.5)."""
    return any(
        isinstance(device, vim.vm.device.VirtualDisk)
        and getattr(device.backing, "keyId", None) is not None
        for device in devices
    )
