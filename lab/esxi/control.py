"""The control socket's operations on a store; lab.esxi.client documents them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from lab.control import Handler
from lab.esxi.disks.store import Store
from lab.esxi.exports import ExportName
from lab.esxi.faults import FaultTable
from lab.esxi.model import DiskFault, EsxiError, SnapshotDisk


def handlers(store: Store, faults: FaultTable) -> Mapping[str, Handler]:
    """Operations by name."""

    def add_disk(vm: str, key: int, path: str, capacity_bytes: int, image: str | None) -> None:
        store.add_disk(vm, key, path, capacity_bytes, None if image is None else Path(image))

    def inject_fault(**fields: object) -> Mapping[str, object]:
        return {"number": faults.arm(DiskFault(**fields))}  # type: ignore[arg-type]

    def clear_faults(number: int | None = None) -> None:
        faults.clear(number)

    def open_file(vm: str, path: str, snapshot: str | None) -> Mapping[str, object]:
        return _open_file(store, faults, vm, path, snapshot)

    def check_vm(vm: str) -> None:
        _check_vm(store, vm)

    def list_disks() -> Mapping[str, object]:
        return {"disks": [asdict(disk) for disk in store.disks()]}

    def current_path(vm: str, key: int) -> Mapping[str, object]:
        return {"path": store.current_path(vm, key)}

    def create_snapshot(vm: str, snapshot: str, keys: list[int]) -> Mapping[str, object]:
        return _snapshot_fields(store.create_snapshot(vm, snapshot, keys))

    def snapshot_disks(vm: str, snapshot: str) -> Mapping[str, object]:
        return _snapshot_fields(store.snapshot_disks(vm, snapshot))

    def changed_areas(
        vm: str, snapshot: str, key: int, change_id: str, start_offset: int, max_areas: int
    ) -> Mapping[str, object]:
        return asdict(store.changed_areas(vm, snapshot, key, change_id, start_offset, max_areas))

    def allocated_areas(
        vm: str, snapshot: str | None, key: int, start_offset: int, max_areas: int
    ) -> Mapping[str, object]:
        return asdict(store.allocated_areas(vm, snapshot, key, start_offset, max_areas))

    return {
        "add_disk": add_disk,
        "remove_disk": store.remove_disk,
        "resize_disk": store.resize_disk,
        "set_tracking": store.set_tracking,
        "reset_tracking": store.reset_tracking,
        "create_snapshot": create_snapshot,
        "remove_snapshot": store.remove_snapshot,
        "snapshot_disks": snapshot_disks,
        "current_path": current_path,
        "changed_areas": changed_areas,
        "allocated_areas": allocated_areas,
        "set_power": store.set_power,
        "disks": list_disks,
        "inject_fault": inject_fault,
        "clear_faults": clear_faults,
        "check_vm": check_vm,
        "open_file": open_file,
    }


def _open_file(
    store: Store, faults: FaultTable, vm: str, path: str, snapshot: str | None
) -> Mapping[str, object]:
    """The export with the content of a disk's file.

    The VDDK library asks before it opens a disk.
    """
    _check_vm(store, vm)
    state = store.find_file(vm, path)
    if state is None:
        raise EsxiError("no_file", f"no file {path} in VM {vm}")
    if snapshot is not None and snapshot not in state.snapshots:
        raise EsxiError("no_snapshot", f"no snapshot {snapshot} of {path}")
    if snapshot is None and store.is_powered_on(vm):
        raise EsxiError("access_denied", f"{path} is in use by a running VM")
    faults.check_open(vm, state.key)
    return {"export": str(ExportName(vm, state.key, snapshot, through_vddk=True))}


def _check_vm(store: Store, vm: str) -> None:
    if not store.has_vm(vm):
        raise EsxiError("no_vm", f"no VM {vm}")


def _snapshot_fields(disks: Mapping[int, SnapshotDisk]) -> Mapping[str, object]:
    return {"disks": [{"key": key, **asdict(disk)} for key, disk in disks.items()]}
