"""The ports of the domain: vCenter and the clock."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from services.vmware_agent.vm import About, ChangedAreaPage, SnapshotDisk, Vm, VmEntry


class Clock(Protocol):
    """Time that a test can turn."""

    def monotonic(self) -> float:
        """Seconds from some fixed point."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""
        ...


class SystemClock:
    """The real `Clock`."""

    def monotonic(self) -> float:
        """Seconds since boot, or so."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """`asyncio.sleep`."""
        await asyncio.sleep(seconds)


class VCenter(Protocol):
    """What the domain needs of a vCenter.

    VMs and snapshots are given as morefs. Each raises `VmNotFound` or `SnapshotNotFound` for an
    unknown one, and the errors of `errors` for everything else. A method that starts a task
    returns when the task has ended; `timeout_seconds` bounds that wait (`VCenterTimeout`).
    `TaskInProgress` of vCenter is `VCenterBusy`.
    """

    async def about(self) -> About:
        """Which vCenter this is; logs in if need be."""
        ...

    async def list_entries(self) -> Sequence[VmEntry]:
        """All VMs and templates of all datacenters, in no particular order."""
        ...

    async def get_vms(self, vms: Sequence[str]) -> Sequence[Vm]:
        """Those VMs, read now in one call, in the order asked for, without those that are gone."""
        ...

    async def get_vm(self, vm: str) -> Vm:
        """Everything about one VM, read now."""
        ...

    async def disk_usage(self, vm: str) -> Mapping[int, int]:
        """Bytes that each thin disk's files take, by device key; others' content is not known."""
        ...

    async def set_tracking(self, vm: str, disks: Sequence[str], timeout_seconds: float) -> None:
        """Turn on changed block tracking for the VM and the disk addresses ("scsi0:0")."""
        ...

    async def create_snapshot(
        self, vm: str, name: str, description: str, *, quiesce: bool, timeout_seconds: float
    ) -> str:
        """Take a snapshot without memory; return its moref. Raises QuiesceFailed too."""
        ...

    async def remove_snapshot(self, snapshot: str, timeout_seconds: float) -> None:
        """Remove one snapshot, not its children, and consolidate its disks."""
        ...

    async def consolidate(self, vm: str, timeout_seconds: float) -> None:
        """Consolidate all disks of a VM."""
        ...

    async def snapshot_disks(self, snapshot: str) -> tuple[SnapshotDisk, ...]:
        """The disks as the snapshot froze them, by device key."""
        ...

    async def changed_areas(
        self, vm: str, snapshot: str, disk_key: int, change_id: str, start: int
    ) -> ChangedAreaPage:
        """One page of changed areas from byte `start` on. Raises CbtReset if vCenter has none."""
        ...

    async def power_on(self, vm: str, timeout_seconds: float) -> None:
        """Power on. Raises WrongPowerState when it is on."""
        ...

    async def power_off(self, vm: str, timeout_seconds: float) -> None:
        """Power off at once. Raises WrongPowerState when it is off."""
        ...

    async def shutdown_guest(self, vm: str) -> None:
        """Ask the guest to shut down; return at once. Raises ToolsNotRunning, WrongPowerState."""
        ...
