"""The source, as the state machine needs it."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class PowerState(StrEnum):
    """A machine's power state; UNSPECIFIED when vCenter reports one that is not known here."""

    ON = "on"
    OFF = "off"
    SUSPENDED = "suspended"
    UNSPECIFIED = "unspecified"


class Firmware(StrEnum):
    """A machine's firmware; UNSPECIFIED when vCenter reports one that is not known here."""

    BIOS = "bios"
    UEFI = "uefi"
    UNSPECIFIED = "unspecified"


class Quiesce(StrEnum):
    """Whether the guest's file systems are frozen for a snapshot; values as they stand in specs."""

    AUTO = "auto"
    REQUIRED = "true"
    OFF = "false"


class Severity(StrEnum):
    """How serious a finding is; ERROR prevents the migration."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


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
    """A machine as vCenter has it."""

    moref: str
    instance_uuid: str
    name: str
    path: str
    power: PowerState
    tools_running: bool
    guest: str
    firmware: Firmware
    secure_boot: bool
    cpu_count: int
    memory_bytes: int
    disks: tuple[SourceDisk, ...]
    nics: tuple[SourceNic, ...]


@dataclass(frozen=True)
class Finding:
    """One result of a check."""

    name: str
    severity: Severity
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
        """The one machine with this moref or this name."""

    def check_vm(self, moref: str) -> tuple[Finding, ...]:
        """The findings that prevent or affect a migration."""

    def enable_tracking(self, moref: str) -> bool:
        """Switch changed block tracking on; True when it was off."""

    def create_snapshot(self, moref: str, name: str, quiesce: Quiesce) -> SourceSnapshot:
        """Create the snapshot, or return the one of that name."""

    def remove_snapshot(self, moref: str, name: str) -> bool:
        """Remove the snapshot of that name; False when there is none."""

    def snapshot_names(self, moref: str, prefix: str) -> tuple[str, ...]:
        """Names of the machine's snapshots that start with `prefix`."""

    def changed_areas(
        self, moref: str, snapshot_moref: str, disk_key: int, change_id: str
    ) -> Iterator[Area]:
        """Areas that changed since `change_id`.

        Reason CBT_RESET when vCenter cannot report them.
        """

    def power(self, moref: str) -> tuple[PowerState, bool]:
        """The power state, and whether VMware Tools run."""

    def shutdown_guest(self, moref: str) -> None:
        """Ask the guest to shut down; reason TOOLS_NOT_RUNNING when it cannot be asked."""

    def power_off(self, moref: str) -> None:
        """Power the machine off without asking the guest."""

    def power_on(self, moref: str) -> None:
        """Start the machine."""
