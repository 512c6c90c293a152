"""The ports of the domain: vCenter and the clock."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from services.vmware_agent.vm import About, ChangedAreaPage, SnapshotDisk, Vm, VmEntry


class Clock(Protocol):
    """The clock; tests replace it."""

    def monotonic(self) -> float:
        """Seconds since a fixed but unspecified moment."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for this number of seconds."""
        ...


class SystemClock:
    """The operating system's clock."""

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """`asyncio.sleep`."""
        await asyncio.sleep(seconds)


class VCenter(Protocol):
    """What the domain needs from vCenter.

    VMs and snapshots are given as morefs. Every method raises `VmNotFound` or `SnapshotNotFound`
    for an unknown one, and other classes of `errors` for other failures. A method that starts a
    task returns when the task has ended, or raises `VCenterTimeout` after `timeout_seconds`.
    vCenter's fault `TaskInProgress` is raised as `VCenterBusy`.
    """

    async def about(self) -> About:
        """vCenter's version and identity; logs in if there is no session."""
        ...

    async def list_entries(self) -> Sequence[VmEntry]:
        """All VMs and templates of all datacenters, in no particular order."""
        ...

    async def get_vms(self, vms: Sequence[str]) -> Sequence[Vm]:
        """These VMs, read now, in the same order; VMs that no longer exist are left out."""
        ...

    async def get_vm(self, vm: str) -> Vm:
        """Everything about one VM, read now."""
        ...

    async def disk_usage(self, vm: str) -> Mapping[int, int]:
        """Bytes that each thin disk's files occupy, by device key; other disks are left out."""
        ...

    async def set_tracking(self, vm: str, disks: Sequence[str], timeout_seconds: float) -> None:
        """Turn on changed block tracking for the VM and the disk addresses ("scsi0:0")."""
        ...

    async def create_snapshot(
        self, vm: str, name: str, description: str, *, quiesce: bool, timeout_seconds: float
    ) -> str:
        """Take a snapshot without memory; return its moref. Also raises QuiesceFailed."""
        ...

    async def remove_snapshot(self, snapshot: str, timeout_seconds: float) -> None:
        """Remove one snapshot, not its children, and consolidate its disks."""
        ...

    async def consolidate(self, vm: str, timeout_seconds: float) -> None:
        """Consolidate all disks of a VM."""
        ...

    async def snapshot_disks(self, snapshot: str) -> tuple[SnapshotDisk, ...]:
        """The disks at the time of the snapshot, in the order of device keys."""
        ...

    async def changed_areas(
        self, vm: str, snapshot: str, disk_key: int, change_id: str, start: int
    ) -> ChangedAreaPage:
        """One page of changed areas from byte `start`.

        Raises CbtReset if vCenter does not know them.
        """
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
