"""What the vCenter simulator needs from others: disks on ESXi hosts and running guests."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from lab.esxi.model import ChangedAreas, DiskState, SnapshotDisk


class DiskStore(Protocol):
    """The disks of the hosts. Offsets and sizes are bytes; every method raises EsxiError.

    ``lab.esxi.client.EsxiClient`` is the one with content,
    ``lab.vcenter.world.memory_disks.MemoryDisks`` the one for VMs that only exist in the
    inventory. One contract test holds for both.
    """

    def add_disk(
        self, vm: str, key: int, path: str, capacity_bytes: int, image: Path | None = None
    ) -> None:
        """Create a disk named ``path`` ("[datastore] dir/file.vmdk"), adopting ``image``."""

    def remove_disk(self, vm: str, key: int) -> None:
        """Forget the disk and its snapshots."""

    def resize_disk(self, vm: str, key: int, capacity_bytes: int) -> None:
        """Grow a disk that has no snapshot."""

    def set_tracking(self, vm: str, key: int, enabled: bool) -> None:
        """Switch CBT; effective for snapshots made after it."""

    def reset_tracking(self, vm: str, key: int) -> None:
        """Start tracking anew: all earlier changeIds become stale."""

    def create_snapshot(self, vm: str, snapshot: str, keys: list[int]) -> dict[int, SnapshotDisk]:
        """Freeze the disks ``keys`` at one instant."""

    def remove_snapshot(self, vm: str, snapshot: str) -> None:
        """Drop the snapshot and consolidate its files."""

    def snapshot_disks(self, vm: str, snapshot: str) -> dict[int, SnapshotDisk]:
        """The snapshot's disks as they are now (removing an older one renames files)."""

    def current_path(self, vm: str, key: int) -> str:
        """The live disk's file."""

    def changed_areas(
        self,
        vm: str,
        snapshot: str,
        key: int,
        change_id: str,
        start_offset: int,
        max_areas: int = ...,
    ) -> ChangedAreas:
        """A page of what changed between ``change_id`` ("*": is in use) and the snapshot."""

    def set_power(self, vm: str, on: bool) -> None:
        """Off: the live disks refuse writes."""

    def disks(self) -> list[DiskState]:
        """Every disk of the store."""


class Guests(Protocol):
    """The operating systems inside powered-on VMs."""

    def start(self, vm: str) -> None:
        """Let the VM's guest run; nothing if it runs already or the VM has none."""

    def stop(self, vm: str, timeout_seconds: float) -> bool:
        """Ask the guest to shut down and wait. False if it still ran at the time limit."""

    def kill(self, vm: str) -> None:
        """Cut the power."""
