"""A DiskStore over two others: one for VMs with content, one for VMs without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lab.esxi.model import ChangedAreas, DiskState, SnapshotDisk
from lab.vcenter.world.ports import DiskStore


class RoutedDisks:
    """Sends each call to the store that has the VM's disks."""

    def __init__(
        self, real: DiskStore, pretended: DiskStore, has_content: Callable[[str], bool]
    ) -> None:
        self._real = real
        self._pretended = pretended
        self._has_content = has_content

    def _of(self, vm: str) -> DiskStore:
        return self._real if self._has_content(vm) else self._pretended

    def add_disk(
        self, vm: str, key: int, path: str, capacity_bytes: int, image: Path | None = None
    ) -> None:
        """See DiskStore."""
        self._of(vm).add_disk(vm, key, path, capacity_bytes, image)

    def remove_disk(self, vm: str, key: int) -> None:
        """See DiskStore."""
        self._of(vm).remove_disk(vm, key)

    def resize_disk(self, vm: str, key: int, capacity_bytes: int) -> None:
        """See DiskStore."""
        self._of(vm).resize_disk(vm, key, capacity_bytes)

    def set_tracking(self, vm: str, key: int, enabled: bool) -> None:
        """See DiskStore."""
        self._of(vm).set_tracking(vm, key, enabled)

    def reset_tracking(self, vm: str, key: int) -> None:
        """See DiskStore."""
        self._of(vm).reset_tracking(vm, key)

    def create_snapshot(self, vm: str, snapshot: str, keys: list[int]) -> dict[int, SnapshotDisk]:
        """See DiskStore."""
        return self._of(vm).create_snapshot(vm, snapshot, keys)

    def remove_snapshot(self, vm: str, snapshot: str) -> None:
        """See DiskStore."""
        self._of(vm).remove_snapshot(vm, snapshot)

    def snapshot_disks(self, vm: str, snapshot: str) -> dict[int, SnapshotDisk]:
        """See DiskStore."""
        return self._of(vm).snapshot_disks(vm, snapshot)

    def current_path(self, vm: str, key: int) -> str:
        """See DiskStore."""
        return self._of(vm).current_path(vm, key)

    def changed_areas(
        self,
        vm: str,
        snapshot: str,
        key: int,
        change_id: str,
        start_offset: int,
        max_areas: int = 2000,
    ) -> ChangedAreas:
        """See DiskStore."""
        return self._of(vm).changed_areas(vm, snapshot, key, change_id, start_offset, max_areas)

    def set_power(self, vm: str, on: bool) -> None:
        """See DiskStore."""
        self._of(vm).set_power(vm, on)

    def disks(self) -> list[DiskState]:
        """See DiskStore."""
        return [*self._real.disks(), *self._pretended.disks()]
