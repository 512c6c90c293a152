"""The values that are sent over the ESXi data path's control socket."""

from __future__ import annotations

from dataclasses import dataclass

from lab.control import ControlError

BLOCK_BYTES = 64 * 1024
"""Granularity of change tracking and copy-on-write. Real CBT starts at 64 KiB and grows with the
disk; QueryAllocatedBlocks has chunks of 64 KiB as a minimum (VDDK Programming Guide)."""

SECTOR_BYTES = 512
"""Capacities are multiples of this, as in VMDK descriptors."""


class EsxiError(ControlError):
    """The ESXi side refused. ``kind`` is one of

    - ``not_found``: no such VM, disk or snapshot;
    - ``already_exists``: the name is taken;
    - ``invalid_argument``: a value outside its range;
    - ``invalid_state``: not possible now (e.g. resize under a snapshot);
    - ``file_fault``: a changeId from before tracking was switched on or reset, or malformed
      (vSphere's FileFault);
    - ``access_denied``: the disk of a running VM was opened without a snapshot;
    - ``nfc_busy``: an injected refusal, as when NFC connections run out;
    - ``no_vm``, ``no_file``, ``no_snapshot``: what a VDDK reader named does not exist;
    - ``unreachable``, ``bad_request``, ``unknown_op``, ``internal``: see lab.control.
    """


@dataclass(frozen=True)
class SnapshotDisk:
    """One disk as a snapshot's config shows it.

    ``path`` is the backing file with the snapshot's content, ``change_id`` is None if tracking
    was off when the snapshot was taken.
    """

    path: str
    change_id: str | None
    capacity_bytes: int


@dataclass(frozen=True)
class ChangedAreas:
    """One page of a changed-areas answer, in bytes.

    The page covers [start, start + length). ``areas`` are (offset, length) pairs inside it, in
    order, with gaps between them; there may be none. The last page ends at the disk's capacity.
    """

    start: int
    length: int
    areas: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class DiskState:
    """What the ESXi side knows of a disk. ``snapshots`` are morefs, oldest first."""

    vm: str
    key: int
    path: str
    capacity_bytes: int
    tracking: bool
    powered_on: bool
    snapshots: tuple[str, ...]
    allocated_bytes: int
    has_writer: bool


@dataclass(frozen=True)
class DiskFault:
    """A fault for readers through the VDDK; guests and lab clients are not affected.

    - ``open_busy``: the next ``count`` opens are refused as NFC out of connections;
    - ``read_error``: reads that touch [offset, offset + length) fail with EIO, ``count`` times
      (0 = until cleared);
    - ``disconnect``: the ``count`` next reads in the range drop the NFC connection for good;
    - ``latency``: each read takes ``milliseconds`` more.

    ``vm`` empty and ``key`` 0 mean every disk. ``length`` 0 means to the end of the disk.
    """

    kind: str
    vm: str = ""
    key: int = 0
    offset: int = 0
    length: int = 0
    count: int = 0
    milliseconds: int = 0
