"""The domain's values for virtual machines; they contain none of vCenter's types.

Sizes are bytes unless the name has another unit. `moref` is vCenter's managed object reference
("vm-42"); it is unique within one vCenter only, so `instance_uuid` is stored with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

# The names of v2c's snapshots start with this, so that clean-up never removes other snapshots.
SNAPSHOT_PREFIX = "v2c-"


class PowerState(Enum):
    """`vim.VirtualMachine.PowerState`."""

    ON = "poweredOn"
    OFF = "poweredOff"
    SUSPENDED = "suspended"


class Firmware(Enum):
    """`vim.vm.GuestOsDescriptor.FirmwareType`."""

    BIOS = "bios"
    EFI = "efi"


class ControllerType(Enum):
    """The type of a disk's controller, which determines the disk's address."""

    SCSI = "scsi"
    SATA = "sata"
    NVME = "nvme"
    IDE = "ide"


class DiskObstacle(Enum):
    """Why a disk cannot be snapshotted or tracked; the value is a predicate for messages."""

    INDEPENDENT = "is independent, so snapshots do not cover it"
    PHYSICAL_RDM = "is a raw device mapping in physical mode, so snapshots do not cover it"
    SHARED_BUS = "is on a controller with SCSI bus sharing, which forbids snapshots"
    MULTI_WRITER = "is shared by several VMs (multi-writer), which forbids snapshots"
    RAW_DISK = "is a raw device of its host, which has no changed block tracking"
    UNKNOWN_BACKING = "has a backing that has no changed block tracking"


@dataclass(frozen=True, slots=True)
class About:
    """A vCenter's (or ESXi host's) version and identity.

    The thumbprint is upper case with colons.
    """

    product: str
    api_version: str
    instance_uuid: str
    thumbprint_sha1: str


@dataclass(frozen=True, slots=True)
class DiskController:
    """A disk's controller. `bus` counts the controllers of one type from 0."""

    key: int
    type: ControllerType
    model: str
    bus: int


@dataclass(frozen=True, slots=True)
class Disk:
    """One virtual disk.

    `key` is vCenter's device key (2000, …), which never changes. `unit` is the disk's number in
    specs; see `disk_units`. `unit_number` is the address on the controller. `path` is the current
    backing file, "[datastore] folder/file.vmdk"; with snapshots it is the newest delta file.
    `backing` is the backing's type ("FlatVer2", "SeSparse", …). `tracking_enabled` is the value of
    the disk's own ctkEnabled key, None if the VM has no such key.
    """

    key: int
    unit: int
    label: str
    controller: DiskController
    unit_number: int
    path: str
    capacity_bytes: int
    mode: str
    backing: str
    thin: bool
    tracking_enabled: bool | None
    obstacles: tuple[DiskObstacle, ...] = ()

    @property
    def address(self) -> str:
        """The disk's prefix in the VM's extra configuration, such as "scsi0:1"."""
        return f"{self.controller.type.value}{self.controller.bus}:{self.unit_number}"

    @property
    def snapshottable(self) -> bool:
        """Whether snapshots cover this disk and changed areas are reported for it."""
        return not self.obstacles


@dataclass(frozen=True, slots=True)
class Nic:
    """One network adapter; `index` is its position in the order of device keys, from 0."""

    key: int
    index: int
    label: str
    network: str
    mac: str
    adapter: str
    connected: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot and its children in the tree. `create_time` is seconds since 1970, UTC."""

    moref: str
    name: str
    description: str
    create_time: float
    quiesced: bool
    children: tuple["Snapshot", ...] = ()

    def walk(self) -> Iterator["Snapshot"]:
        """This snapshot and its descendants, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()

    @property
    def ours(self) -> bool:
        """Whether the name has v2c's prefix."""
        return self.name.startswith(SNAPSHOT_PREFIX)


@dataclass(frozen=True, slots=True)
class VmEntry:
    """A VM's entry in the inventory, which can be read for thousands of VMs in one call.

    `path` is "/datacenter/vm/folder/name". A slash inside a name is escaped as %2f in it, as in
    vCenter, so that paths are unambiguous; `name` is unescaped.
    """

    moref: str
    instance_uuid: str
    name: str
    path: str
    template: bool


@dataclass(frozen=True, slots=True)
class Vm:
    """All that a migration needs to know of a VM. `name` and `path` are as in `VmEntry`."""

    moref: str
    instance_uuid: str
    name: str
    path: str
    power: PowerState
    template: bool
    tools_running: bool
    guest_id: str
    guest_full_name: str
    firmware: Firmware
    secure_boot: bool
    hardware_version: int
    cpu_count: int
    memory_bytes: int
    tracking_supported: bool
    tracking_enabled: bool
    consolidation_needed: bool
    has_vtpm: bool
    encrypted: bool
    passthrough_devices: tuple[str, ...]
    host: str
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]
    snapshots: tuple[Snapshot, ...]

    def all_snapshots(self) -> Iterator[Snapshot]:
        """Every snapshot of the tree, parents before children."""
        for root in self.snapshots:
            yield from root.walk()

    def snapshot_named(self, name: str) -> Snapshot | None:
        """The first snapshot of that exact name, or None."""
        return next((s for s in self.all_snapshots() if s.name == name), None)


@dataclass(frozen=True, slots=True)
class SnapshotDisk:
    """A disk at the time of a snapshot.

    `change_id` is the opaque "<uuid>/<n>" with which later changes can be queried; None if the
    disk was not tracked at that time. `path` is the file with the snapshot's content.
    """

    key: int
    path: str
    capacity_bytes: int
    change_id: str | None


@dataclass(frozen=True, slots=True)
class Area:
    """`length` bytes from byte `start` of a disk."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """The first byte after the area."""
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class ChangedAreaPage:
    """One answer of QueryChangedDiskAreas: the changed areas within [start, start+length)."""

    start: int
    length: int
    areas: tuple[Area, ...]


def disk_units(placed: tuple[tuple[int, DiskController, int], ...]) -> dict[int, int]:
    """The disks' numbers in specs, by device key; `placed` has (key, controller, unit number).

    If all disks are on one controller, a disk's number is its unit number, as in the reference
    tool's spec files. With several controllers it is ``bus * 16 + unit number`` for SCSI. Other
    controllers start at 1000 (SATA, 32 per bus), 2000 (NVMe, 64 per bus) and 3000 (IDE, 2 per bus),
    and units above 15 of a paravirtual SCSI controller (64 units since hardware version 14) at
    4000, so that no two disks of a VM have the same number.
    """
    if len({controller.key for _, controller, _ in placed}) <= 1:
        return {key: unit_number for key, _, unit_number in placed}
    return {key: _unit(controller, unit_number) for key, controller, unit_number in placed}


def _unit(controller: DiskController, unit_number: int) -> int:
    match controller.type:
        case ControllerType.SCSI if unit_number < 16:
            return controller.bus * 16 + unit_number
        case ControllerType.SCSI:
            return 4000 + controller.bus * 64 + unit_number
        case ControllerType.SATA:
            return 1000 + controller.bus * 32 + unit_number
        case ControllerType.NVME:
            return 2000 + controller.bus * 64 + unit_number
        case ControllerType.IDE:
            return 3000 + controller.bus * 2 + unit_number


_ESCAPES = (("%2f", "/"), ("%5c", "\\"), ("%25", "%"))


def unescape_name(name: str) -> str:
    """The name without vCenter's escapes for slash, backslash and percent (%2f, %5c, %25)."""
    for escaped, character in _ESCAPES:
        name = name.replace(escaped, character).replace(escaped.upper(), character)
    return name
