"""Blocking, thread-safe client of the ESXi data path's control socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lab.control import ControlClient, ControlError
from lab.esxi.model import ChangedAreas, DiskFault, DiskState, EsxiError, SnapshotDisk

__all__ = [
    "ChangedAreas",
    "DiskFault",
    "DiskState",
    "EsxiClient",
    "EsxiError",
    "SnapshotDisk",
]

DEFAULT_MAX_AREAS = 2000
"""Areas per page. Real vCenters were seen to answer with about 2,000 areas per page."""


class EsxiClient:
    """The operations of ESXi hosts that vCenter uses. Every method raises EsxiError."""

    def __init__(self, control_socket: Path) -> None:
        self._control = ControlClient(control_socket)

    def _call(self, op: str, **arguments: object) -> dict[str, Any]:
        try:
            return self._control.call(op, **arguments)
        except ControlError as error:
            raise EsxiError(error.kind, error.message) from error

    def add_disk(
        self,
        vm: str,
        key: int,
        path: str,
        capacity_bytes: int,
        image: Path | None = None,
    ) -> None:
        """Create a disk. ``path`` is its "[datastore] dir/file.vmdk" name, unique among disks.

        ``image`` is raw content, which is copied with its holes; it may be shorter than the
        capacity, but not longer. Without an image the disk is one hole. The VM counts as powered
        on until set_power switches it off.
        """
        self._call(
            "add_disk",
            vm=vm,
            key=key,
            path=path,
            capacity_bytes=capacity_bytes,
            image=None if image is None else str(image.absolute()),
        )

    def remove_disk(self, vm: str, key: int) -> None:
        """Remove the disk and delete its content and snapshots."""
        self._call("remove_disk", vm=vm, key=key)

    def resize_disk(self, vm: str, key: int, capacity_bytes: int) -> None:
        """Grow the disk. As on a real host, refused (``invalid_state``) while it has a snapshot."""
        self._call("resize_disk", vm=vm, key=key, capacity_bytes=capacity_bytes)

    def set_tracking(self, vm: str, key: int, enabled: bool) -> None:
        """Switch changed block tracking on or off; this affects snapshots taken from now on.

        Switching it on starts new tracking with a new uuid; if it is on already, nothing changes.
        """
        self._call("set_tracking", vm=vm, key=key, enabled=enabled)

    def reset_tracking(self, vm: str, key: int) -> None:
        """Start new tracking: every earlier changeId is refused with ``file_fault``."""
        self._call("reset_tracking", vm=vm, key=key)

    def create_snapshot(self, vm: str, snapshot: str, keys: list[int]) -> dict[int, SnapshotDisk]:
        """Take a snapshot of the disks ``keys`` at one instant, while the guest writes."""
        answer = self._call("create_snapshot", vm=vm, snapshot=snapshot, keys=keys)
        return _snapshot_disks(answer)

    def remove_snapshot(self, vm: str, snapshot: str) -> None:
        """Remove the snapshot; blocks that an older snapshot needs are moved to that one."""
        self._call("remove_snapshot", vm=vm, snapshot=snapshot)

    def snapshot_disks(self, vm: str, snapshot: str) -> dict[int, SnapshotDisk]:
        """The snapshot's disks now; their files are renamed when an older snapshot is removed."""
        return _snapshot_disks(self._call("snapshot_disks", vm=vm, snapshot=snapshot))

    def current_path(self, vm: str, key: int) -> str:
        """The live disk's file: the base name, or "…-00000N.vmdk" while snapshots exist."""
        path: str = self._call("current_path", vm=vm, key=key)["path"]
        return path

    def changed_areas(
        self,
        vm: str,
        snapshot: str,
        key: int,
        change_id: str,
        start_offset: int,
        max_areas: int = DEFAULT_MAX_AREAS,
    ) -> ChangedAreas:
        """A page of the areas that changed between ``change_id`` and the snapshot.

        Changes are tracked exactly, in blocks of 64 KiB.

        With ``"*"`` it has the areas in use at the snapshot; if tracking was switched on while a
        snapshot existed, that is the whole disk. ``file_fault`` for a stale or unknown id.
        """
        return _areas(
            self._call(
                "changed_areas",
                vm=vm,
                snapshot=snapshot,
                key=key,
                change_id=change_id,
                start_offset=start_offset,
                max_areas=max_areas,
            )
        )

    def allocated_areas(
        self,
        vm: str,
        snapshot: str | None,
        key: int,
        start_offset: int = 0,
        max_areas: int = DEFAULT_MAX_AREAS,
    ) -> ChangedAreas:
        """A page of the blocks in use, in the snapshot or (None) in the live disk."""
        return _areas(
            self._call(
                "allocated_areas",
                vm=vm,
                snapshot=snapshot,
                key=key,
                start_offset=start_offset,
                max_areas=max_areas,
            )
        )

    def set_power(self, vm: str, on: bool) -> None:
        """Note the VM's power. When it is off its live exports are read-only; writes get EIO."""
        self._call("set_power", vm=vm, on=on)

    def disks(self) -> list[DiskState]:
        """Every disk, in order of VM and key."""
        return [
            DiskState(**{**disk, "snapshots": tuple(disk["snapshots"])})
            for disk in self._call("disks")["disks"]
        ]

    def inject_fault(self, fault: DiskFault) -> int:
        """Arm a fault for VDDK readers and return its number for clear_faults."""
        number: int = self._call("inject_fault", **asdict(fault))["number"]
        return number

    def clear_faults(self, number: int | None = None) -> None:
        """Disarm one fault, or all of them."""
        self._call("clear_faults", number=number)


def _areas(answer: Mapping[str, Any]) -> ChangedAreas:
    return ChangedAreas(
        start=answer["start"],
        length=answer["length"],
        areas=tuple((offset, length) for offset, length in answer["areas"]),
    )


def _snapshot_disks(answer: Mapping[str, Any]) -> dict[int, SnapshotDisk]:
    # JSON has no integer keys, so the disks are sent as a list of objects that contain the key.
    return {
        disk["key"]: SnapshotDisk(disk["path"], disk["change_id"], disk["capacity_bytes"])
        for disk in answer["disks"]
    }
