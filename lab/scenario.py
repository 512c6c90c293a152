"""Scenarios: frozen descriptions of a lab's datacenters, hosts, networks and VMs.

A scenario does not describe how they are simulated. ``lab.scenarios`` has the built-in ones;
tests define their own. Processes exchange descriptions as JSON (``dump``, ``load``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import TypeAdapter

MIB = 1024 * 1024
GIB = 1024 * MIB


class Controller(StrEnum):
    """Types of disk controllers, named as vSphere administrators name them."""

    PVSCSI = "pvscsi"
    LSILOGIC = "lsilogic"
    LSILOGIC_SAS = "lsilogic-sas"
    SATA = "sata"
    NVME = "nvme"
    IDE = "ide"


class Content(StrEnum):
    """A disk's content when the lab is new."""

    NONE = "none"
    """No content: snapshots and changed areas are simulated, the disk cannot be read."""
    EMPTY = "empty"
    """One hole."""
    PATTERN = "pattern"
    """Pseudo-random data, holes and allocated zeroes in turn."""
    GUEST = "guest"
    """A small Linux with a file system that virt-v2v recognises."""


class Backing(StrEnum):
    """How vSphere stores the disk."""

    FLAT = "flat"
    RDM_PHYSICAL = "rdm-physical"
    RDM_VIRTUAL = "rdm-virtual"


class Tools(StrEnum):
    """State of VMware Tools in the guest while it runs."""

    RUNNING = "running"
    NOT_RUNNING = "not-running"
    NOT_INSTALLED = "not-installed"


@dataclass(frozen=True)
class DiskSpec:
    """One virtual disk. ``bus`` and ``unit`` are its address; None means the next free unit."""

    capacity_bytes: int
    controller: Controller = Controller.PVSCSI
    bus: int = 0
    unit: int | None = None
    content: Content = Content.NONE
    backing: Backing = Backing.FLAT
    mode: str = "persistent"
    """vim VirtualDiskMode: persistent, independent_persistent, independent_nonpersistent."""
    sharing: str = "sharingNone"
    """vim VirtualDiskSharing: sharingNone or sharingMultiWriter."""
    thin: bool = True
    ctk_enabled: bool | None = None
    """Value of ``<controller><bus>:<unit>.ctkEnabled`` in the VM's configuration, None = absent."""

    @property
    def trackable(self) -> bool:
        """Whether CBT and snapshots cover the disk (not independent, not physical RDM, not
        shared: vSphere Virtual Disk Programming Guide, "Changed Block Tracking")."""
        return (
            self.backing is not Backing.RDM_PHYSICAL
            and not self.mode.startswith("independent")
            and self.sharing == "sharingNone"
        )


@dataclass(frozen=True)
class NicSpec:
    """A network adapter on ``network`` (a NetworkSpec's name in the same datacenter)."""

    network: str
    adapter: str = "vmxnet3"
    """vmxnet3, e1000 or e1000e."""
    mac: str | None = None
    """Lower case with colons; None means an address of VMware's range."""
    connected: bool = True


@dataclass(frozen=True)
class WriterSpec:
    """A process that writes to the VM's disks while the VM is powered on."""

    rate_mib_per_second: float = 1.0
    seed: int = 1


@dataclass(frozen=True)
class VmSpec:
    """One virtual machine."""

    name: str
    disks: tuple[DiskSpec, ...] = ()
    nics: tuple[NicSpec, ...] = ()
    folder: str = ""
    """Path below the datacenter's VM folder, with ``/`` between folders. A slash in a name is
    written ``%2f``, as vSphere stores it."""
    datastore: str = ""
    """Name of a DatastoreSpec; empty means the datacenter's first."""
    guest_id: str = "otherLinux64Guest"
    guest_full_name: str = "Other Linux (64-bit)"
    hardware_version: str = "vmx-19"
    firmware: str = "bios"
    secure_boot: bool = False
    cpus: int = 2
    memory_mib: int = 2048
    tools: Tools = Tools.RUNNING
    powered_on: bool = True
    change_tracking: bool = False
    """CBT is already on when the lab is new."""
    shared_bus: str = "noSharing"
    """vim VirtualSCSISharing of the VM's SCSI controllers."""
    writer: WriterSpec | None = None
    annotation: str = ""
    uuid: str | None = None
    """BIOS uuid; None derives one from the VM's position in the scenario."""
    template: bool = False

    @property
    def has_content(self) -> bool:
        """Whether the VM's disks have content, which the ESXi side stores."""
        return any(disk.content is not Content.NONE for disk in self.disks)


@dataclass(frozen=True)
class NetworkSpec:
    """A port group."""

    name: str
    distributed: bool = False


@dataclass(frozen=True)
class DatastoreSpec:
    """A datastore."""

    name: str
    capacity_bytes: int = 1024 * GIB
    kind: str = "VMFS"
    """VMFS, NFS or vsan."""


@dataclass(frozen=True)
class ClusterSpec:
    """A cluster and its ESXi hosts' names."""

    name: str
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class DatacenterSpec:
    """A datacenter. ``folder`` is a path of datacenter folders below the root folder."""

    name: str
    clusters: tuple[ClusterSpec, ...]
    datastores: tuple[DatastoreSpec, ...]
    networks: tuple[NetworkSpec, ...]
    vms: tuple[VmSpec, ...] = ()
    folder: str = ""


@dataclass(frozen=True)
class UserSpec:
    """An account. A read-only one has the privileges System.View and System.Read only."""

    name: str
    password: str
    read_only: bool = False


DEFAULT_USERS = (
    UserSpec("administrator@vsphere.local", 'lab Pa$$"word&<1>'),
    UserSpec("auditor@vsphere.local", "look-but-do-not-touch", read_only=True),
)
"""The administrator's password has characters that need quoting and escaping."""


@dataclass(frozen=True)
class Scenario:
    """A whole vCenter. The first user is the one in ``lab.json``."""

    name: str
    datacenters: tuple[DatacenterSpec, ...]
    users: tuple[UserSpec, ...] = field(default=DEFAULT_USERS)

    @property
    def vms(self) -> tuple[VmSpec, ...]:
        """The VMs of all datacenters, in order."""
        return tuple(vm for datacenter in self.datacenters for vm in datacenter.vms)


_ADAPTER = TypeAdapter(Scenario)


def dump(scenario: Scenario) -> bytes:
    """The scenario as JSON."""
    return _ADAPTER.dump_json(scenario, indent=1)


def load(text: bytes | str) -> Scenario:
    """The scenario from JSON. Raises pydantic.ValidationError (a ValueError)."""
    return _ADAPTER.validate_json(text)
