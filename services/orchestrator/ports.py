"""What the state machine needs from the three agents, in its own terms.

The adapters in `adapters/` implement these over gRPC, tests in memory. Every method may raise
`services.kit.errors.ServiceError`; `retryable` there decides whether a tick tries again by itself.
Every method is idempotent. Sizes and offsets are bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True)
class Area:
    """A run of bytes of a disk."""

    offset: int
    length: int


@dataclass(frozen=True)
class SourceDisk:
    """A disk as vCenter has it; `unit` is its number in specs, `slot` its "scsi1:0"."""

    key: int
    unit: int
    slot: str
    label: str
    path: str
    capacity_bytes: int
    used_bytes: int = 0
    unsupported_reason: str = ""


@dataclass(frozen=True)
class SourceNic:
    """An adapter as vCenter has it."""

    key: int
    index: int
    label: str
    network: str
    mac: str


@dataclass(frozen=True)
class SourceVm:
    """A machine as vCenter has it; `firmware` is "bios" or "uefi", `power` on, off, suspended."""

    moref: str
    instance_uuid: str
    name: str
    path: str
    power: str
    tools_running: bool
    guest: str
    firmware: str
    secure_boot: bool
    cpu_count: int
    memory_bytes: int
    disks: tuple[SourceDisk, ...]
    nics: tuple[SourceNic, ...]


@dataclass(frozen=True)
class Finding:
    """One result of a check; `severity` is info, warning or error."""

    name: str
    severity: str
    message: str
    hint: str


@dataclass(frozen=True)
class SnapshotDisk:
    """A disk as a snapshot froze it; `change_id` is "" when it is not tracked."""

    key: int
    path: str
    change_id: str
    capacity_bytes: int


@dataclass(frozen=True)
class SourceSnapshot:
    """A snapshot in vCenter."""

    moref: str
    name: str
    disks: tuple[SnapshotDisk, ...]


class VmwarePort(Protocol):
    """The source."""

    def thumbprint(self) -> str:
        """SHA-1 thumbprint of vCenter's certificate, after a login."""

    def list_vms(self, text: str, page_size: int, token: str) -> tuple[tuple[SourceVm, ...], str]:
        """A page of machines whose name or path contains `text`, and the next page's token."""

    def get_vm(self, *, moref: str = "", name: str = "") -> SourceVm:
        """The one machine meant."""

    def check_vm(self, moref: str) -> tuple[Finding, ...]:
        """What is in the way of a warm migration."""

    def enable_tracking(self, moref: str) -> bool:
        """Switch changed block tracking on; True when it was off."""

    def create_snapshot(self, moref: str, name: str, quiesce: str) -> SourceSnapshot:
        """Create the snapshot, or return the one of that name. `quiesce`: auto, true, false."""

    def remove_snapshot(self, moref: str, name: str) -> bool:
        """Remove the snapshot of that name; False when there is none."""

    def snapshot_names(self, moref: str, prefix: str) -> tuple[str, ...]:
        """Names of the machine's snapshots that start with `prefix`."""

    def changed_areas(
        self, moref: str, snapshot_moref: str, disk_key: int, change_id: str
    ) -> Iterator[Area]:
        """Areas that changed since `change_id`; reason CBT_RESET when vCenter cannot tell."""

    def power(self, moref: str) -> tuple[str, bool]:
        """Power state (on, off, suspended) and whether Tools run."""

    def shutdown_guest(self, moref: str) -> None:
        """Ask the guest to shut down; reason TOOLS_NOT_RUNNING when nobody listens."""

    def power_off(self, moref: str) -> None:
        """Pull the plug."""

    def power_on(self, moref: str) -> None:
        """Start the machine."""


@dataclass(frozen=True)
class Pool:
    """Primary storage as CloudStack describes it; `type` is CloudStack's word."""

    id: str
    name: str
    type: str
    source: str
    path: str
    options: str = ""


class TransferMode(StrEnum):
    """What a transfer does."""

    FULL = "full"
    RANGES = "ranges"
    RESYNC = "resync"
    VERIFY_TARGET = "verify_target"
    REPAIR = "repair"


@dataclass(frozen=True)
class TransferOrder:
    """A transfer to start; `snapshot_*` and `source_path` name what is read through VDDK.

    Without a snapshot it is the disk itself, which opens only while the machine is off.
    """

    transfer_id: str
    mode: TransferMode
    disk_id: str
    capacity_bytes: int
    target_path: str
    pass_number: int
    epoch: int
    vm_moref: str = ""
    snapshot_moref: str = ""
    source_path: str = ""
    thumbprint: str = ""
    ranges_id: str = ""
    queue_depth: int = 0


@dataclass(frozen=True)
class TransferSnapshot:
    """A transfer now; `state` is queued, running, succeeded, failed or cancelled."""

    transfer_id: str
    state: str
    total_bytes: int = 0
    done_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    verified_bytes: int = 0
    unverified_bytes: int = 0
    repaired_bytes: int = 0
    rate_bytes_per_second: int = 0
    eta_seconds: int = -1
    digest: str = ""
    reason: str = ""
    message: str = ""
    hint: str = ""
    retryable: bool = False


@dataclass(frozen=True)
class ConversionSnapshot:
    """A conversion now; `state` as of a transfer."""

    state: str
    step: str = ""
    warnings: tuple[str, ...] = ()
    requires_uefi: bool = False
    guest_os: str = ""
    log_path: str = ""
    reason: str = ""
    message: str = ""
    hint: str = ""
    retryable: bool = False


class DiskPort(Protocol):
    """One storage host."""

    def capabilities(self) -> Mapping[str, str]:
        """What the host has, by name; "sources" is a comma-separated list."""

    def ensure_pool(self, pool: Pool) -> str:
        """Make the pool reachable; its directory on the host."""

    def create_image(self, pool_id: str, name: str, size_bytes: int, expected_bytes: int) -> str:
        """Create the image or find it with that size; its absolute path."""

    def resize_image(self, path: str, size_bytes: int) -> None:
        """Grow the image; the same size is no error."""

    def delete_image(self, path: str) -> None:
        """Delete the image and its control data."""

    def put_ranges(self, ranges_id: str, capacity_bytes: int, areas: Iterator[Area]) -> int:
        """Store the areas; the bytes they cover."""

    def start_transfer(self, order: TransferOrder) -> TransferSnapshot:
        """Start the transfer, attach to it, or resume it if it failed."""

    def get_transfer(self, transfer_id: str) -> TransferSnapshot:
        """The transfer now."""

    def cancel_transfer(self, transfer_id: str, epoch: int) -> None:
        """Stop the transfer."""

    def start_conversion(
        self, conversion_id: str, images: Sequence[str], virtio_iso: str, epoch: int
    ) -> ConversionSnapshot:
        """Start the conversion, or attach to it."""

    def get_conversion(self, conversion_id: str) -> ConversionSnapshot:
        """The conversion now."""

    def cancel_conversion(self, conversion_id: str, epoch: int) -> None:
        """Stop the conversion."""

    def prune_records(
        self, images_in_use: Sequence[str], ranges_in_use: Sequence[str], ended_before: datetime
    ) -> None:
        """Forget transfers, chunk maps and conversions of images not in use, ended before then."""


class PlacementKind(StrEnum):
    """What a machine can be placed on."""

    ZONE = "zone"
    CLUSTER = "cluster"
    STORAGE_POOL = "storage_pool"
    NETWORK = "network"
    DISK_OFFERING = "disk_offering"
    SERVICE_OFFERING = "service_offering"
    OS_TYPE = "os_type"


@dataclass(frozen=True)
class Placement:
    """One thing a machine can be placed on."""

    id: str
    name: str
    zone_id: str
    cluster_id: str
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class Job:
    """A CloudStack job; `state` is running, succeeded or failed."""

    job_id: str
    state: str
    resource_id: str = ""
    reason: str = ""
    message: str = ""
    hint: str = ""
    retryable: bool = False


@dataclass(frozen=True)
class VmImport:
    """The machine to make from a root disk; see StartVmImportRequest for the values."""

    display_name: str
    name_suffix: str
    zone_id: str
    cluster_id: str
    storage_id: str
    disk_path: str
    network_id: str
    service_offering_id: str
    cpu_count: int
    memory_bytes: int
    boot_type: str
    boot_mode: str
    root_disk_controller: str
    nic_adapter: str


@dataclass(frozen=True)
class TargetVm:
    """A machine in CloudStack; `nics` maps network id to MAC, `volumes` path to volume id."""

    id: str
    name: str
    state: str
    nics: Mapping[str, str]
    volumes: Mapping[str, str]


class CloudstackPort(Protocol):
    """The target."""

    def check(self) -> str:
        """CloudStack's version, after a signed call."""

    def placements(self, kind: PlacementKind, zone_id: str, text: str) -> tuple[Placement, ...]:
        """What there is to place a machine on."""

    def resolve_pool(self, storage_id: str) -> Pool:
        """What a storage host has to mount."""

    def get_vm(self, vm_id: str) -> TargetVm:
        """A machine by id."""

    def import_vm(self, job_id: str, order: VmImport) -> Job:
        """Import a root disk."""

    def import_volume(
        self, job_id: str, storage_id: str, path: str, name: str, offering_id: str
    ) -> Job:
        """Import a data disk."""

    def attach_volume(self, job_id: str, volume_id: str, vm_id: str) -> Job:
        """Attach a volume."""

    def add_nic(self, job_id: str, vm_id: str, network_id: str, mac: str) -> Job:
        """Add an adapter."""

    def start_vm(self, job_id: str, vm_id: str) -> Job:
        """Start a machine."""

    def stop_vm(self, job_id: str, vm_id: str) -> Job:
        """Stop a machine for certain."""

    def unmanage_vm(self, job_id: str, vm_id: str) -> Job:
        """Let go of a machine, keep its disks."""

    def unmanage_volume(self, job_id: str, volume_id: str) -> Job:
        """Let go of a volume, keep its file."""

    def get_job(self, job_id: str) -> Job:
        """The job now."""

    def update_vm(self, vm_id: str, os_type_id: str, details: Mapping[str, str]) -> None:
        """Set OS type and details."""


@dataclass(frozen=True)
class Agents:
    """The three agents."""

    vmware: VmwarePort
    disk: DiskPort
    cloudstack: CloudstackPort
