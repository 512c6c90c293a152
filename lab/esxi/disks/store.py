"""All disks of the lab's ESXi side: names, snapshots over several disks, change tracking, power.

lab.esxi.disks.disk keeps the content; this module keeps the disks' records in ``store.json``,
written atomically after each change. Thread-safe, standard library only.
"""

from __future__ import annotations

import re
import shutil
import threading
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from lab.esxi.disks.areas import ChangeId, Runs, page
from lab.esxi.disks.catalog import DiskRecord, load_catalog, save_catalog
from lab.esxi.disks.disk import Disk
from lab.esxi.model import (
    SECTOR_BYTES,
    ChangedAreas,
    DiskState,
    EsxiError,
    SnapshotDisk,
)

MAX_SNAPSHOTS = 32
"""vSphere's limit for a chain of snapshots (KB 1025279)."""


class Store:
    """The disks under ``directory``, which keeps their whole state."""

    def __init__(self, directory: Path, new_uuid: Callable[[], uuid.UUID] = uuid.uuid4) -> None:
        self.directory = directory
        self._new_uuid = new_uuid
        self._lock = threading.RLock()
        directory.mkdir(parents=True, exist_ok=True)
        self._records, self._powered_off = load_catalog(directory / "store.json")
        self._disks = {record.id: self._open(record) for record in self._records}
        self._writers: dict[str, object] = {}
        self._remove_leftovers()

    def _open(self, record: DiskRecord) -> Disk:
        names = [snapshot.moref for snapshot in record.snapshots]
        return Disk(
            self.directory / record.directory, record.capacity_bytes, names, record.generation
        )

    def close(self) -> None:
        """Close every disk."""
        with self._lock:
            for disk in self._disks.values():
                disk.close()

    # -- disks

    def add_disk(
        self, vm: str, key: int, path: str, capacity_bytes: int, image: Path | None
    ) -> None:
        """See EsxiClient.add_disk."""
        _check_capacity(capacity_bytes)
        _check_name(vm)
        with self._lock:
            if self._find(vm, key) is not None:
                raise EsxiError("already_exists", f"disk {vm}/{key} exists")
            if any(record.path == path for record in self._records):
                raise EsxiError("already_exists", f"{path} is another disk's file")
            if image is not None and image.stat().st_size > capacity_bytes:
                raise EsxiError("invalid_argument", f"{image} is larger than the disk")
            record = DiskRecord(vm, key, path, capacity_bytes)
            disk = self._open(record)
            if image is not None:
                # Under the store's lock, so that nobody reads a half-filled disk; disks are rarely
                # added.
                disk.adopt(image)
            self._records.append(record)
            self._disks[record.id] = disk
            self._save()

    def remove_disk(self, vm: str, key: int) -> None:
        """See EsxiClient.remove_disk."""
        with self._lock:
            record = self._record(vm, key)
            self._records.remove(record)
            self._save()
            disk = self._disks.pop(record.id)
            with disk.lock:
                disk.close()
            shutil.rmtree(disk.directory)

    def resize_disk(self, vm: str, key: int, capacity_bytes: int) -> None:
        """See EsxiClient.resize_disk."""
        _check_capacity(capacity_bytes)
        with self._lock:
            record = self._record(vm, key)
            if record.snapshots:
                raise EsxiError("invalid_state", f"disk {record.id} has snapshots")
            if capacity_bytes < record.capacity_bytes:
                raise EsxiError("invalid_argument", "a disk cannot shrink")
            self._disks[record.id].grow(capacity_bytes)
            record.capacity_bytes = capacity_bytes
            self._save()

    def disks(self) -> list[DiskState]:
        """See EsxiClient.disks."""
        with self._lock:
            ordered = sorted(self._records, key=lambda record: (record.vm, record.key))
            return [self._state(record) for record in ordered]

    def has_vm(self, vm: str) -> bool:
        """Whether the VM has a disk here."""
        with self._lock:
            return bool(self._records_of(vm))

    def find_file(self, vm: str, path: str) -> DiskState | None:
        """The VM's disk to whose chain of files ``path`` belongs."""
        with self._lock:
            for record in self._records_of(vm):
                if path in record.file_paths():
                    return self._state(record)
        return None

    def _state(self, record: DiskRecord) -> DiskState:
        return DiskState(
            vm=record.vm,
            key=record.key,
            path=record.current_path(),
            capacity_bytes=record.capacity_bytes,
            tracking=record.tracking_uuid is not None,
            powered_on=record.vm not in self._powered_off,
            snapshots=tuple(snapshot.moref for snapshot in record.snapshots),
            allocated_bytes=self._disks[record.id].allocated_bytes(),
            has_writer=record.id in self._writers,
        )

    def current_path(self, vm: str, key: int) -> str:
        """See EsxiClient.current_path."""
        with self._lock:
            return self._record(vm, key).current_path()

    # -- change tracking

    def set_tracking(self, vm: str, key: int, enabled: bool) -> None:
        """See EsxiClient.set_tracking."""
        with self._lock:
            record = self._record(vm, key)
            if enabled == (record.tracking_uuid is not None):
                return
            if enabled:
                self._begin_tracking(record)
            else:
                record.tracking_uuid = None
            self._save()

    def reset_tracking(self, vm: str, key: int) -> None:
        """See EsxiClient.reset_tracking."""
        with self._lock:
            record = self._record(vm, key)
            if record.tracking_uuid is None:
                raise EsxiError("invalid_state", f"disk {record.id} is not tracked")
            self._begin_tracking(record)
            self._save()

    def _begin_tracking(self, record: DiskRecord) -> None:
        record.tracking_uuid = self._new_uuid().hex
        record.tracked_with_snapshots = bool(record.snapshots)

    # -- snapshots

    def create_snapshot(self, vm: str, snapshot: str, keys: list[int]) -> dict[int, SnapshotDisk]:
        """See EsxiClient.create_snapshot."""
        _check_name(snapshot)
        with self._lock, ExitStack() as frozen:
            records = [self._record(vm, key) for key in keys]
            if any(record.has_snapshot(snapshot) for record in self._records_of(vm)):
                raise EsxiError("already_exists", f"snapshot {snapshot} of {vm} exists")
            if any(len(record.snapshots) >= MAX_SNAPSHOTS for record in records):
                raise EsxiError("invalid_state", f"{vm} has {MAX_SNAPSHOTS} snapshots already")
            for record in records:
                # With all locks held no write can happen between the snapshots of two disks.
                frozen.enter_context(self._disks[record.id].lock)
            for record in records:
                disk = self._disks[record.id]
                disk.push_snapshot(snapshot)
                record.push_snapshot(snapshot)
                disk.generation = record.generation
            self._save()
            return self.snapshot_disks(vm, snapshot) if keys else {}

    def remove_snapshot(self, vm: str, snapshot: str) -> None:
        """See EsxiClient.remove_snapshot."""
        with self._lock:
            records = self._with_snapshot(vm, snapshot)
            vanishing = []
            with ExitStack() as frozen:
                for record in records:
                    frozen.enter_context(self._disks[record.id].lock)
                for record in records:
                    vanishing.append(self._disks[record.id].take_out_snapshot(snapshot))
                    record.drop_snapshot(snapshot)
                # Stored before a writer continues: from now on its changes are not preserved for
                # this snapshot, so it must not exist again after a restart.
                self._save()
            for delta in vanishing:
                delta.delete()

    def snapshot_disks(self, vm: str, snapshot: str) -> dict[int, SnapshotDisk]:
        """See EsxiClient.snapshot_disks."""
        with self._lock:
            return {
                record.key: SnapshotDisk(
                    path=record.snapshot_path(snapshot),
                    change_id=record.snapshot(snapshot).change_id,
                    capacity_bytes=record.capacity_bytes,
                )
                for record in self._with_snapshot(vm, snapshot)
            }

    # -- areas

    def changed_areas(
        self,
        vm: str,
        snapshot: str,
        key: int,
        change_id: str,
        start_offset: int,
        max_areas: int,
    ) -> ChangedAreas:
        """See EsxiClient.changed_areas."""
        with self._lock:
            record = self._record(vm, key)
            own_id = record.snapshot(snapshot).change_id
            disk = self._disks[record.id]
            if change_id == "*":
                if own_id is None:
                    raise EsxiError("file_fault", f"{record.path} is not tracked")
                if record.tracked_with_snapshots:
                    return page(_everything, record.capacity_bytes, start_offset, max_areas)
                return self.allocated_areas(vm, snapshot, key, start_offset, max_areas)
            since = self._known_generation(record, own_id, change_id)

        def runs(first: int, end: int) -> Runs:
            return disk.changed(snapshot, since, first, end)

        return page(runs, record.capacity_bytes, start_offset, max_areas)

    def allocated_areas(
        self, vm: str, snapshot: str | None, key: int, start_offset: int, max_areas: int
    ) -> ChangedAreas:
        """See EsxiClient.allocated_areas."""
        with self._lock:
            record = self._record(vm, key)
            if snapshot is not None:
                record.snapshot(snapshot)
            disk = self._disks[record.id]

        def runs(first: int, end: int) -> Runs:
            return disk.allocated(snapshot, first, end)

        return page(runs, record.capacity_bytes, start_offset, max_areas)

    @staticmethod
    def _known_generation(record: DiskRecord, own_id: str | None, change_id: str) -> int:
        """The generation a changeId names, if the disk's tracking still covers it."""
        asked = ChangeId.parse(change_id)
        own = None if own_id is None else ChangeId.parse(own_id)
        if (
            asked is None
            or own is None
            or not asked.tracking_uuid == own.tracking_uuid == record.tracking_uuid
            or asked.generation > own.generation
        ):
            raise EsxiError("file_fault", f"Error caused by file {record.path}")
        return asked.generation

    # -- power and connections

    def set_power(self, vm: str, on: bool) -> None:
        """See EsxiClient.set_power."""
        with self._lock:
            if on:
                self._powered_off.discard(vm)
            else:
                self._powered_off.add(vm)
            self._save()

    def is_powered_on(self, vm: str) -> bool:
        """Whether the VM runs; True for an unknown one."""
        return vm not in self._powered_off

    def claim_writer(self, vm: str, key: int, session: object) -> bool:
        """Make ``session`` the disk's only writer; False if another session is."""
        return self._writers.setdefault(f"{vm}/{key}", session) is session

    def release_writer(self, vm: str, key: int, session: object) -> None:
        """End the session's claim, if it has one."""
        with self._lock:
            if self._writers.get(f"{vm}/{key}") is session:
                del self._writers[f"{vm}/{key}"]

    # -- records

    def open_view(self, vm: str, key: int, snapshot: str | None) -> tuple[Disk, int]:
        """The disk behind an export and the capacity of that view in bytes."""
        with self._lock:
            record = self._record(vm, key)
            if snapshot is not None:
                record.snapshot(snapshot)
            return self._disks[record.id], record.capacity_bytes

    def _records_of(self, vm: str) -> list[DiskRecord]:
        return [record for record in self._records if record.vm == vm]

    def _find(self, vm: str, key: int) -> DiskRecord | None:
        return next((record for record in self._records_of(vm) if record.key == key), None)

    def _record(self, vm: str, key: int) -> DiskRecord:
        record = self._find(vm, key)
        if record is None:
            raise EsxiError("not_found", f"no disk {key} of VM {vm}")
        return record

    def _with_snapshot(self, vm: str, snapshot: str) -> list[DiskRecord]:
        records = [record for record in self._records_of(vm) if record.has_snapshot(snapshot)]
        if not records:
            raise EsxiError("not_found", f"no snapshot {snapshot} of VM {vm}")
        return records

    def _save(self) -> None:
        save_catalog(self.directory / "store.json", self._records, self._powered_off)

    def _remove_leftovers(self) -> None:
        """Delete files that a killed process created but did not record."""
        wanted = {record.directory: record for record in self._records}
        for directory in self.directory.iterdir():
            if directory.is_dir() and directory.name not in wanted:
                shutil.rmtree(directory)
        for name, record in wanted.items():
            parts = {"live", *(snapshot.moref for snapshot in record.snapshots)}
            for file in (self.directory / name).iterdir():
                if file.stem not in parts:
                    file.unlink()


def _everything(first: int, end: int) -> Runs:
    yield first, end, True


def _check_capacity(capacity_bytes: int) -> None:
    if capacity_bytes <= 0 or capacity_bytes % SECTOR_BYTES:
        raise EsxiError("invalid_argument", f"capacity {capacity_bytes} is not whole sectors")


def _check_name(name: str) -> None:
    """Morefs become parts of file and export names."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:-]*", name) or name == "live":
        raise EsxiError("invalid_argument", f"{name!r} is not a moref")
