"""Translates a VM's properties, as read from vCenter, to a `vm.Vm`."""

import re
from collections.abc import Iterable

from pyVmomi import vim
from pyVmomi.VmomiSupport import ManagedObject

from services.vmware_agent.vcenter.devices import (
    has_encrypted_disk,
    has_vtpm,
    network_keys,
    read_disks,
    read_extra_config,
    read_nics,
    read_passthrough,
)
from services.vmware_agent.vcenter.inventory import Inventory, parent_of
from services.vmware_agent.vcenter.property_collector import Found
from services.vmware_agent.vcenter.vmomi import moref
from services.vmware_agent.vm import Firmware, PowerState, Snapshot, Vm, unescape_name

VM_PATHS = (
    "name",
    "parent",
    "parentVApp",
    "capability.changeTrackingSupported",
    "config.bootOptions",
    "config.changeTrackingEnabled",
    "config.extraConfig",
    "config.firmware",
    "config.guestFullName",
    "config.guestId",
    "config.hardware",
    "config.instanceUuid",
    "config.template",
    "config.version",
    "guest.toolsRunningStatus",
    "runtime.consolidationNeeded",
    "runtime.host",
    "runtime.powerState",
    "snapshot",
)

# A VM without these is inaccessible, orphaned, being created, or hidden by permissions.
READABLE = frozenset({"config.hardware", "runtime.powerState"})


class VmProperties:
    """The properties `VM_PATHS` of one VM; the `READABLE` ones are present."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self.moref = found.moref
        self._host = found.properties.get("runtime.host")
        hardware = found.properties["config.hardware"]
        if not isinstance(hardware, vim.vm.VirtualHardware):
            raise TypeError(f"config.hardware of {found.moref} is a {type(hardware).__name__}")
        self._hardware = hardware

    def known_to(self, inventory: Inventory) -> bool:
        """Whether `inventory` has the names of the VM's folder, host and networks."""
        parent = parent_of(self._found)
        return (
            (parent is None or parent in inventory.folders)
            and (not isinstance(self._host, ManagedObject) or moref(self._host) in inventory.hosts)
            and network_keys(self._hardware.device) <= inventory.networks.keys()
        )

    def to_vm(self, inventory: Inventory) -> Vm:
        """The VM as a value, with the names of its folder, host and networks from `inventory`."""
        get = self._found.properties.get
        devices = list(self._hardware.device)
        boot = get("config.bootOptions")
        tree = get("snapshot")
        name = str(get("name") or self.moref)
        return Vm(
            moref=self.moref,
            instance_uuid=self._text("config.instanceUuid"),
            name=unescape_name(name),
            path=inventory.path(name, parent_of(self._found)),
            power=PowerState(str(get("runtime.powerState"))),
            template=bool(get("config.template")),
            tools_running=get("guest.toolsRunningStatus") == "guestToolsRunning",
            guest_id=self._text("config.guestId"),
            guest_full_name=self._text("config.guestFullName"),
            firmware=Firmware.EFI if get("config.firmware") == "efi" else Firmware.BIOS,
            secure_boot=bool(getattr(boot, "efiSecureBootEnabled", False)),
            hardware_version=_hardware_version(self._text("config.version")),
            cpu_count=self._hardware.numCPU,
            memory_bytes=self._hardware.memoryMB * 1024 * 1024,
            tracking_supported=bool(get("capability.changeTrackingSupported")),
            tracking_enabled=bool(get("config.changeTrackingEnabled")),
            consolidation_needed=bool(get("runtime.consolidationNeeded")),
            has_vtpm=has_vtpm(devices),
            encrypted=has_encrypted_disk(devices),
            passthrough_devices=read_passthrough(devices),
            host=inventory.hosts.get(moref(self._host), "")
            if isinstance(self._host, ManagedObject)
            else "",
            disks=read_disks(devices, read_extra_config(self._options())),
            nics=read_nics(devices, inventory.networks),
            snapshots=_snapshots(tree.rootSnapshotList)
            if isinstance(tree, vim.vm.SnapshotInfo)
            else (),
        )

    def _text(self, path: str) -> str:
        return str(self._found.properties.get(path) or "")

    def _options(self) -> Iterable[vim.option.OptionValue]:
        options = self._found.properties.get("config.extraConfig")
        return options if isinstance(options, list) else []


def _hardware_version(version: str) -> int:
    """19 for "vmx-19"; 0, which counts as too old, for any other text."""
    match = re.fullmatch(r"vmx-(\d+)", version)
    return int(match[1]) if match else 0


def _snapshots(trees: Iterable[vim.vm.SnapshotTree]) -> tuple[Snapshot, ...]:
    return tuple(
        Snapshot(
            moref=moref(tree.snapshot),
            name=tree.name,
            description=tree.description or "",
            create_time=tree.createTime.timestamp(),
            quiesced=bool(tree.quiesced),
            children=_snapshots(tree.childSnapshotList or []),
        )
        for tree in trees
    )
