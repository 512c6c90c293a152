"""Disks without content, for VMs that exist only in the inventory (fleets of thousands)."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from lab.esxi.model import BLOCK_BYTES, ChangedAreas, DiskState, EsxiError, SnapshotDisk

_ANY_AREAS = 2000


@dataclass
class _Snapshot:
    name: str
    path: str
    change_id: str | None
    generation: int
    tracking: bool


@dataclass
class _Disk:
    path: str
    capacity_bytes: int
    tracking: str | None = None
    """uuid part of the change ids since tracking was last reset; None while it is off."""
    tracked_from: int = 0
    generation: int = 1
    files: int = 0
    chain: list[_Snapshot] = field(default_factory=list)


class MemoryDisks:
    """A DiskStore that keeps snapshots and changeIds, but no content.

    Between two snapshots the first block of the disk is reported as changed, so that callers get a
    delta. ``*`` gives the disk's first half, in one area. The state is lost with the process, so
    the simulator creates tracking and snapshots of such VMs again when it starts. Thread-safe.
    """

    def __init__(self) -> None:
        self._disks: dict[tuple[str, int], _Disk] = {}
        self._lock = threading.Lock()

    def add_disk(
        self, vm: str, key: int, path: str, capacity_bytes: int, image: Path | None = None
    ) -> None:
        """See DiskStore. An image is refused (``invalid_argument``): there is no content."""
        if image is not None:
            raise EsxiError("invalid_argument", f"disks of {vm} have no content to fill")
        with self._lock:
            if (vm, key) in self._disks:
                raise EsxiError("already_exists", f"{vm} has a disk {key}")
            self._disks[vm, key] = _Disk(path, capacity_bytes)

    def remove_disk(self, vm: str, key: int) -> None:
        """See DiskStore."""
        with self._lock:
            self._get(vm, key)
            del self._disks[vm, key]

    def resize_disk(self, vm: str, key: int, capacity_bytes: int) -> None:
        """See DiskStore."""
        with self._lock:
            disk = self._get(vm, key)
            if disk.chain:
                raise EsxiError("invalid_state", f"{disk.path} has snapshots")
            if capacity_bytes < disk.capacity_bytes:
                raise EsxiError("invalid_argument", "a disk cannot shrink")
            disk.capacity_bytes = capacity_bytes

    def set_tracking(self, vm: str, key: int, enabled: bool) -> None:
        """See DiskStore."""
        with self._lock:
            disk = self._get(vm, key)
            if enabled != (disk.tracking is not None):
                if enabled:
                    self._start_tracking(disk)
                else:
                    disk.tracking = None

    def reset_tracking(self, vm: str, key: int) -> None:
        """See DiskStore."""
        with self._lock:
            self._start_tracking(self._get(vm, key))

    def create_snapshot(self, vm: str, snapshot: str, keys: list[int]) -> dict[int, SnapshotDisk]:
        """See DiskStore."""
        with self._lock:
            disks = {key: self._get(vm, key) for key in keys}
            if any(snapshot == s.name for disk in disks.values() for s in disk.chain):
                raise EsxiError("already_exists", f"{vm} has a snapshot {snapshot}")
            for disk in disks.values():
                disk.generation += 1
                change_id = f"{disk.tracking}/{disk.generation}" if disk.tracking else None
                frozen = _Snapshot(
                    snapshot, _live_path(disk), change_id, disk.generation, bool(disk.tracking)
                )
                disk.chain.append(frozen)
                disk.files += 1
            return self._snapshot_disks(vm, snapshot)

    def remove_snapshot(self, vm: str, snapshot: str) -> None:
        """See DiskStore."""
        with self._lock:
            self._snapshot_disks(vm, snapshot)
            for (owner, _key), disk in self._disks.items():
                if owner == vm:
                    disk.chain = [s for s in disk.chain if s.name != snapshot]
                    disk.files = disk.files if disk.chain else 0

    def snapshot_disks(self, vm: str, snapshot: str) -> dict[int, SnapshotDisk]:
        """See DiskStore."""
        with self._lock:
            return self._snapshot_disks(vm, snapshot)

    def current_path(self, vm: str, key: int) -> str:
        """See DiskStore."""
        with self._lock:
            return _live_path(self._get(vm, key))

    def changed_areas(
        self,
        vm: str,
        snapshot: str,
        key: int,
        change_id: str,
        start_offset: int,
        max_areas: int = _ANY_AREAS,
    ) -> ChangedAreas:
        """See DiskStore; a page always reaches the disk's end."""
        with self._lock:
            disk = self._get(vm, key)
            frozen = next((s for s in disk.chain if s.name == snapshot), None)
            if frozen is None:
                raise EsxiError("not_found", f"{vm} disk {key} has no snapshot {snapshot}")
            if not frozen.tracking:
                raise EsxiError("file_fault", f"{frozen.path} is not tracked")
            end = _changed_end(disk, frozen, change_id)
        if not 0 <= start_offset < disk.capacity_bytes:
            raise EsxiError("invalid_argument", f"start {start_offset} is outside the disk")
        length = disk.capacity_bytes - start_offset
        areas = ((start_offset, end - start_offset),) if end > start_offset else ()
        return ChangedAreas(start_offset, length, areas)

    def set_power(self, vm: str, on: bool) -> None:
        """See DiskStore; does nothing, because these disks cannot be written."""

    def disks(self) -> list[DiskState]:
        """See DiskStore."""
        with self._lock:
            return [
                DiskState(
                    vm=vm,
                    key=key,
                    path=_live_path(disk),
                    capacity_bytes=disk.capacity_bytes,
                    tracking=disk.tracking is not None,
                    powered_on=True,
                    snapshots=tuple(s.name for s in disk.chain),
                    allocated_bytes=0,
                    has_writer=False,
                )
                for (vm, key), disk in sorted(self._disks.items())
            ]

    def _get(self, vm: str, key: int) -> _Disk:
        disk = self._disks.get((vm, key))
        if disk is None:
            raise EsxiError("not_found", f"{vm} has no disk {key}")
        return disk

    def _snapshot_disks(self, vm: str, snapshot: str) -> dict[int, SnapshotDisk]:
        found = {
            key: SnapshotDisk(frozen.path, frozen.change_id, disk.capacity_bytes)
            for (owner, key), disk in self._disks.items()
            if owner == vm
            for frozen in disk.chain
            if frozen.name == snapshot
        }
        if not found:
            raise EsxiError("not_found", f"{vm} has no snapshot {snapshot}")
        return found

    @staticmethod
    def _start_tracking(disk: _Disk) -> None:
        raw = uuid.uuid4().bytes
        disk.tracking = f"{raw[:8].hex(' ')}-{raw[8:].hex(' ')}"
        disk.generation += 1
        disk.tracked_from = disk.generation


def _live_path(disk: _Disk) -> str:
    return (
        disk.path if not disk.files else f"{disk.path.removesuffix('.vmdk')}-{disk.files:06}.vmdk"
    )


def _changed_end(disk: _Disk, frozen: _Snapshot, change_id: str) -> int:
    """The end of the one changed area, which begins at 0; 0 if there is none."""
    if change_id == "*":
        return disk.capacity_bytes // 2 // BLOCK_BYTES * BLOCK_BYTES
    tracking, _, number = change_id.rpartition("/")
    if tracking != disk.tracking or not number.isdigit() or int(number) < disk.tracked_from:
        raise EsxiError("file_fault", f"{frozen.path}: changeId {change_id!r} is stale")
    return min(BLOCK_BYTES, disk.capacity_bytes) if int(number) < frozen.generation else 0
