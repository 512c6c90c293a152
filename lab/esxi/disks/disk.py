"""One virtual disk: live content, snapshots on top of each other, and change generations.

The live content is one sparse raw file. A snapshot's delta is empty at first; before a block is
overwritten, it is copied to the newest snapshot's delta. A block of a snapshot is read from its own
delta, or else from the next newer one that has it, or else from the live file. Generations are
kept in the same way, so a snapshot has for each block the generation in which it had last been
changed *at the time of the snapshot*.
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

from lab.esxi.disks.areas import Runs
from lab.esxi.disks.block_map import BlockMap
from lab.esxi.disks.delta import DATA, FALL_THROUGH, HOLE, Delta, byte_runs, runs
from lab.esxi.disks.sparse import copy_range, data_extents, punch_hole
from lab.esxi.model import BLOCK_BYTES

Buffer = bytearray | memoryview


class Disk:
    """Content of a disk in a directory of its own. Thread-safe.

    ``lock`` is public so that a snapshot of several disks can hold all their locks at once; it is
    re-entrant. The caller keeps the chain (names of the snapshots, oldest first) and the current
    ``generation`` across restarts.
    """

    def __init__(
        self, directory: Path, capacity_bytes: int, snapshots: list[str], generation: int
    ) -> None:
        self.lock = threading.RLock()
        self.directory = directory
        self.capacity_bytes = capacity_bytes
        self.generation = generation
        directory.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(directory / "live.raw", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._open_maps()
        self._chain = [Delta(directory, name, capacity_bytes) for name in snapshots]

    def _open_maps(self) -> None:
        os.truncate(self._fd, self.capacity_bytes)
        blocks = -(-self.capacity_bytes // BLOCK_BYTES)
        self._allocated = BlockMap(self.directory / "live.state", blocks, "B")
        self._generations = BlockMap(self.directory / "live.generation", blocks, "I")

    def close(self) -> None:
        """Close all files; they stay on disk."""
        with self.lock:
            for delta in self._chain:
                delta.close()
            self._allocated.close()
            self._generations.close()
            os.close(self._fd)

    # -- content

    def read(self, view: str | None, buffer: Buffer, offset: int) -> None:
        """Fill ``buffer`` from byte ``offset`` of the live disk (None) or of the snapshot ``view``.

        Raises OSError: EINVAL outside the disk, ESHUTDOWN when the snapshot has been removed.
        """
        target = memoryview(buffer)
        end = offset + len(target)
        with self.lock:
            if end > self.capacity_bytes:
                raise OSError(errno.EINVAL, f"read of [{offset}, {end}) outside the disk")
            if view is None:
                _read_exactly(self._fd, target, offset)
                return
            deltas = self._seen_by(view)
            first = offset // BLOCK_BYTES
            levels = _levels(deltas, first, _blocks(end))
            for run_first, run_end, level in byte_runs(levels, first):
                start = max(offset, run_first * BLOCK_BYTES)
                part = target[start - offset : min(end, run_end * BLOCK_BYTES) - offset]
                if level == _HOLE_LEVEL:
                    part[:] = bytes(len(part))
                else:
                    fd = self._fd if level == _LIVE_LEVEL else deltas[level].fd
                    _read_exactly(fd, part, start)

    def write(self, buffer: Buffer | bytes, offset: int) -> None:
        """Change the live disk. Raises OSError."""
        data = memoryview(buffer)
        with self.lock:
            self._before_change(offset, len(data), allocate=True)
            while data:
                written = os.pwrite(self._fd, data, offset)
                data, offset = data[written:], offset + written

    def zero(self, offset: int, length: int) -> None:
        """Write zeroes: allocated blocks stay allocated, holes stay holes; all count as changed."""
        with self.lock:
            self._before_change(offset, length, allocate=False)
            punch_hole(self._fd, offset, length)

    def trim(self, offset: int, length: int) -> None:
        """Unmap the whole blocks inside the range (VMFS does so in its own granularity); partly
        covered ones keep their content."""
        first, end = -(-offset // BLOCK_BYTES), (offset + length) // BLOCK_BYTES
        if offset + length == self.capacity_bytes:
            end = _blocks(self.capacity_bytes)
        if end > first:
            with self.lock:
                start = first * BLOCK_BYTES
                size = min(end * BLOCK_BYTES, self.capacity_bytes) - start
                self._before_change(start, size, allocate=False)
                punch_hole(self._fd, start, size)
                self._allocated.fill(first, end, 0)

    def flush(self) -> None:
        """Put the live content on stable storage."""
        os.fdatasync(self._fd)

    def adopt(self, image: Path) -> None:
        """Copy raw content into a new disk; holes of the file stay holes."""
        source = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = min(os.fstat(source).st_size, self.capacity_bytes)
            with self.lock:
                for offset, length in data_extents(source, size):
                    copy_range(source, self._fd, offset, length)
                    self._allocated.fill(offset // BLOCK_BYTES, _blocks(offset + length), 1)
        finally:
            os.close(source)

    def grow(self, capacity_bytes: int) -> None:
        """Enlarge a disk without snapshots; the new space is a hole."""
        with self.lock:
            self._allocated.close()
            self._generations.close()
            self.capacity_bytes = capacity_bytes
            self._open_maps()

    def _before_change(self, offset: int, length: int, *, allocate: bool) -> None:
        """Preserve blocks for the newest snapshot and mark them as changed before they are written:
        after a crash in between, a block too many is reported as changed, never one too few."""
        first, end = offset // BLOCK_BYTES, _blocks(offset + length)
        if self._chain:
            self._chain[-1].preserve(first, end, self._fd, self._allocated, self._generations)
        self._generations.fill(first, end, self.generation)
        if allocate:
            self._allocated.fill(first, end, 1)

    # -- snapshots

    def push_snapshot(self, name: str) -> None:
        """Take a snapshot of the present state."""
        with self.lock:
            self._chain.append(Delta(self.directory, name, self.capacity_bytes))

    def take_out_snapshot(self, name: str) -> Delta:
        """Remove a snapshot from the chain, after copying to the older one the blocks it needs.

        The caller deletes the returned delta after it has stored the removal.
        """
        with self.lock:
            delta = self._seen_by(name)[0]
            position = self._chain.index(delta)
            if position:
                self._chain[position - 1].absorb(delta)
            del self._chain[position]
            return delta

    def _seen_by(self, view: str | None) -> list[Delta]:
        """The deltas in which a view's blocks are looked for before the live content."""
        if view is None:
            return []
        for position, delta in enumerate(self._chain):
            if delta.name == view:
                return self._chain[position:]
        # The NBD error for a server that shuts down; a reader then closes its connection.
        raise OSError(errno.ESHUTDOWN, f"snapshot {view} is gone")

    # -- what is used, what changed

    def allocated(self, view: str | None, first: int, end: int) -> Runs:
        """Runs of blocks (first, end, in use?) of the live disk or a snapshot."""
        with self.lock:
            used = bytearray(self._allocated.values[first:end])
            for delta in reversed(self._seen_by(view)):
                for run_first, run_end, state in runs(delta.states, first, end):
                    if state != FALL_THROUGH:
                        value = b"\x01" if state == DATA else b"\x00"
                        used[run_first - first : run_end - first] = value * (run_end - run_first)
        for run_first, run_end, flag in byte_runs(used, first):
            yield run_first, run_end, bool(flag)

    def changed(self, view: str, since: int, first: int, end: int) -> Runs:
        """Runs of blocks (first, end, changed after generation ``since``?) as snapshot ``view``
        saw them."""
        with self.lock:
            newest = memoryview(self._generations.values[first:end].tobytes()).cast("I")
            flags = bytearray(map(since.__lt__, newest))
            for delta in reversed(self._seen_by(view)):
                for run_first, run_end, state in runs(delta.states, first, end):
                    if state != FALL_THROUGH:
                        kept = delta.generations.values[run_first:run_end]
                        flags[run_first - first : run_end - first] = bytes(map(since.__lt__, kept))
        for run_first, run_end, value in byte_runs(flags, first):
            yield run_first, run_end, bool(value)

    def allocated_bytes(self) -> int:
        """Space in use by the live disk."""
        with self.lock:
            return bytes(self._allocated.values).count(1) * BLOCK_BYTES


# A chain has at most 32 snapshots, so these two numbers are never indices of deltas.
_LIVE_LEVEL = 255
_HOLE_LEVEL = 254


def _levels(deltas: list[Delta], first: int, end: int) -> bytes:
    """For each block of [first, end) the place of its content: an index into ``deltas``,
    _LIVE_LEVEL, or _HOLE_LEVEL."""
    levels = bytearray([_LIVE_LEVEL]) * (end - first)
    for level, delta in reversed(list(enumerate(deltas))):
        for run_first, run_end, state in runs(delta.states, first, end):
            if state != FALL_THROUGH:
                value = _HOLE_LEVEL if state == HOLE else level
                levels[run_first - first : run_end - first] = bytes([value]) * (run_end - run_first)
    return bytes(levels)


def _blocks(length: int) -> int:
    return -(-length // BLOCK_BYTES)


def _read_exactly(fd: int, target: memoryview, offset: int) -> None:
    while target:
        count = os.preadv(fd, [target], offset)
        if count == 0:
            raise OSError(errno.EIO, "disk file ends early")
        target, offset = target[count:], offset + count
