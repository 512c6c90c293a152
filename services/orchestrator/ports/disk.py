"""One storage host, as the state machine needs it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from services.kit.failure import Failure
from services.orchestrator.ports.vmware import Area


@dataclass(frozen=True)
class Pool:
    """Primary storage as CloudStack describes it; `type` is CloudStack's name for the pool type."""

    id: str
    name: str
    type: str
    source: str
    path: str
    options: str = ""


@dataclass(frozen=True)
class ReachedPool:
    """Where a pool is on the host, and whether the disk agent mounted it, now or before."""

    directory: str
    mounted_by_agent: bool


class TransferMode(StrEnum):
    """How a transfer chooses what it reads and writes."""

    FULL = "full"
    RANGES = "ranges"
    RESYNC = "resync"
    VERIFY_TARGET = "verify_target"
    REPAIR = "repair"


@dataclass(frozen=True)
class TransferOrder:
    """A transfer to start; `snapshot_moref` and `source_path` name what is read through VDDK.

    Without a snapshot the running disk is read, which VDDK opens only while the machine is off.
    `disk_key` is vCenter's device key, `disk_id` names the disk on the storage host.
    """

    transfer_id: str
    mode: TransferMode
    disk_id: str
    disk_key: int
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


class WorkState(StrEnum):
    """The states of a transfer or a conversion."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether this state is final."""
        return self not in {WorkState.QUEUED, WorkState.RUNNING}


@dataclass(frozen=True)
class TransferSnapshot:
    """A transfer's state and progress at one moment; `failure` is why it failed."""

    transfer_id: str
    state: WorkState
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
    failure: Failure | None = None


@dataclass(frozen=True)
class ConversionSnapshot:
    """A conversion's state and progress at one moment; `failure` is why it failed."""

    state: WorkState
    step: str = ""
    warnings: tuple[str, ...] = ()
    requires_uefi: bool = False
    guest_os: str = ""
    log_path: str = ""
    failure: Failure | None = None


class DiskPort(Protocol):
    """One storage host."""

    def check(self) -> None:
        """Raise ServiceError unless the host answers."""

    def ensure_pool(self, pool: Pool) -> ReachedPool:
        """Make the pool reachable."""

    def release_pool(self, pool_id: str) -> None:
        """Unmount the pool if the agent mounted it; an unknown pool is no error."""

    def create_image(self, pool_id: str, name: str, size_bytes: int, expected_bytes: int) -> str:
        """Create the image, or find it with that size; returns its absolute path."""

    def resize_image(self, path: str, size_bytes: int) -> None:
        """Grow the image; the same size is no error."""

    def delete_image(self, path: str) -> None:
        """Delete the image and its control data."""

    def put_ranges(self, ranges_id: str, capacity_bytes: int, areas: Iterator[Area]) -> int:
        """Store the areas; returns the bytes they cover."""

    def start_transfer(self, order: TransferOrder) -> TransferSnapshot:
        """Start the transfer, attach to it, or resume it if it failed."""

    def get_transfer(self, transfer_id: str) -> TransferSnapshot:
        """The transfer's present state and progress."""

    def cancel_transfer(self, transfer_id: str, epoch: int) -> None:
        """Stop the transfer."""

    def start_conversion(
        self, conversion_id: str, images: Sequence[str], virtio_iso: str, epoch: int
    ) -> ConversionSnapshot:
        """Start the conversion, or attach to it."""

    def get_conversion(self, conversion_id: str) -> ConversionSnapshot:
        """The conversion's present state and progress."""

    def cancel_conversion(self, conversion_id: str, epoch: int) -> None:
        """Stop the conversion."""

    def prune_records(
        self, images_in_use: Sequence[str], ranges_in_use: Sequence[str], ended_before: datetime
    ) -> None:
        """Remove records of transfers and conversions that ended before `ended_before`.

        Records and chunk maps of images in use, and range sets in use, are kept.
        """
