"""The ports of the vCenter simulator: disks on ESXi hosts, and guests."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from lab.esxi.model import ChangedAreas, DiskState, SnapshotDisk


class DiskStore(Protocol):
    """The disks of the hosts. Offsets and sizes are bytes; every method raises EsxiError.

    ``lab.esxi.client.EsxiClient`` implements it for disks with content,
    ``lab.vcenter.world.memory_disks.MemoryDisks`` for VMs that exist only in the inventory.
    The same contract test checks both.
    """

    def add_disk(
        self, vm: str, key: int, path: str, capacity_bytes: int, image: Path | None = None
    ) -> None:
        """Create a disk with the content of ``image``; ``path`` is "[datastore] dir/file.vmdk"."""

    def remove_disk(self, vm: str, key: int) -> None:
        """Remove the disk and its snapshots."""

    def resize_disk(self, vm: str, key: int, capacity_bytes: int) -> None:
        """Grow a disk that has no snapshot."""

    def set_tracking(self, vm: str, key: int, enabled: bool) -> None:
        """Switch CBT on or off; this affects snapshots taken later."""

    def reset_tracking(self, vm: str, key: int) -> None:
        """Start new tracking: all earlier changeIds become stale."""

    def create_snapshot(self, vm: str, snapshot: str, keys: list[int]) -> dict[int, SnapshotDisk]:
        """Take a snapshot of the disks ``keys`` at one instant."""

    def remove_snapshot(self, vm: str, snapshot: str) -> None:
        """Remove the snapshot and consolidate its files."""

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
        """A page of the areas that changed between ``change_id`` and the snapshot ("*": in use)."""

    def set_power(self, vm: str, on: bool) -> None:
        """Note the VM's power; when it is off the live disks refuse writes."""

    def disks(self) -> list[DiskState]:
        """Every disk of the store."""


class Guests(Protocol):
    """The operating systems inside powered-on VMs."""

    def start(self, vm: str) -> None:
        """Start the VM's guest, if it has one that does not run."""

    def stop(self, vm: str, timeout_seconds: float) -> bool:
        """Ask the guest to shut down and wait; False if it still runs after the time limit."""

    def kill(self, vm: str) -> None:
        """End the guest at once, as a power-off does."""
