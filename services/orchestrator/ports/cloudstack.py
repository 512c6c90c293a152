"""The target, as the state machine needs it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from services.kit.failure import Failure
from services.orchestrator.ports.disk import Pool


class PlacementKind(StrEnum):
    """The kinds of placement that can be listed."""

    ZONE = "zone"
    CLUSTER = "cluster"
    STORAGE_POOL = "storage_pool"
    NETWORK = "network"
    DISK_OFFERING = "disk_offering"
    SERVICE_OFFERING = "service_offering"
    OS_TYPE = "os_type"


@dataclass(frozen=True)
class Placement:
    """A zone, cluster, pool, network, offering or OS type that a spec can name."""

    id: str
    name: str
    zone_id: str
    cluster_id: str
    attributes: Mapping[str, str]


class JobState(StrEnum):
    """The states of a CloudStack job."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True)
class Job:
    """A CloudStack job; `failure` is why it failed, if CloudStack gave a reason."""

    job_id: str
    state: JobState
    resource_id: str = ""
    failure: Failure | None = None


@dataclass(frozen=True)
class VmImport:
    """The machine to create from a root disk; its values are those of StartVmImportRequest."""

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
        """The placements of one kind: zones, clusters, pools, networks, offerings or OS types."""

    def resolve_pool(self, storage_id: str) -> Pool:
        """The pool's source, type and mount options, with which a storage host mounts it."""

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
        """Power a machine off without asking its guest."""

    def unmanage_vm(self, job_id: str, vm_id: str) -> Job:
        """Unmanage a machine, keep its disks."""

    def unmanage_volume(self, job_id: str, volume_id: str) -> Job:
        """Unmanage a volume, keep its file."""

    def get_job(self, job_id: str) -> Job:
        """The job's present state and result."""

    def update_vm(self, vm_id: str, os_type_id: str) -> None:
        """Set the OS type; "" keeps the one that CloudStack chose."""
