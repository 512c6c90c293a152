"""The copy-on-write data of one disk's snapshot: of the blocks that changed after the snapshot,
their content at the snapshot and the generation in which they had changed last."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from lab.esxi.disks.block_map import BlockMap
from lab.esxi.disks.sparse import copy_range
from lab.esxi.model import BLOCK_BYTES

FALL_THROUGH = 0
"""Not changed since the snapshot: the content is in a newer snapshot or in the live disk."""
DATA = 1
"""The block was allocated; its content is in this delta."""
HOLE = 2
"""The block was not allocated and read as zeroes."""


class Delta:
    """Copy-on-write store of a snapshot. The owning disk's lock guards it.

    A block is preserved in the order content, generation, state: after a SIGKILL in between, the
    state is still FALL_THROUGH, and the live block has not been written yet.
    """

    def __init__(self, directory: Path, name: str, capacity_bytes: int) -> None:
        self.name = name
        self.capacity_bytes = capacity_bytes
        self.blocks = -(-capacity_bytes // BLOCK_BYTES)
        self._paths = [directory / f"{name}.{part}" for part in ("cow", "state", "generation")]
        self.fd = os.open(self._paths[0], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.truncate(self.fd, capacity_bytes)
        self.states = BlockMap(self._paths[1], self.blocks, "B")
        self.generations = BlockMap(self._paths[2], self.blocks, "I")

    def preserve(
        self, first: int, end: int, source: int, allocated: BlockMap, generations: BlockMap
    ) -> None:
        """Copy the blocks [first, end) from the file ``source``, unless they are copied already."""
        for run_first, run_end, state in runs(self.states, first, min(end, self.blocks)):
            if state != FALL_THROUGH:
                continue
            for part_first, part_end, used in runs(allocated, run_first, run_end):
                if used:
                    self._copy(source, part_first, part_end)
                self.generations.copy_from(generations, part_first, part_end)
                self.states.fill(part_first, part_end, DATA if used else HOLE)

    def absorb(self, newer: Delta) -> None:
        """Copy the blocks that this snapshot needs from a newer one that is being removed.

        May be repeated after an interruption.
        """
        for first, end, state in runs(newer.states, 0, min(self.blocks, newer.blocks)):
            if state == FALL_THROUGH:
                continue
            for part_first, part_end, own in runs(self.states, first, end):
                if own != FALL_THROUGH:
                    continue
                if state == DATA:
                    self._copy(newer.fd, part_first, part_end)
                self.generations.copy_from(newer.generations, part_first, part_end)
                self.states.fill(part_first, part_end, state)

    def _copy(self, source: int, first: int, end: int) -> None:
        offset = first * BLOCK_BYTES
        copy_range(source, self.fd, offset, min(end * BLOCK_BYTES, self.capacity_bytes) - offset)

    def close(self) -> None:
        """Close the files; they stay on disk."""
        self.states.close()
        self.generations.close()
        os.close(self.fd)

    def delete(self) -> None:
        """Close and remove the files."""
        self.close()
        for path in self._paths:
            path.unlink()


_RUN = re.compile(rb"(.)\1*", re.DOTALL)


def runs(numbers: BlockMap, first: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Split blocks [first, end) of an 8-bit map into maximal runs of one number: (first, end,
    number). Works on a copy, so that the map may be changed meanwhile."""
    yield from byte_runs(bytes(numbers.values[first:end]), first)


def byte_runs(values: bytes | bytearray, first: int) -> Iterator[tuple[int, int, int]]:
    """Like runs(), over bytes whose index 0 is block ``first``."""
    for match in _RUN.finditer(values):
        yield first + match.start(), first + match.end(), values[match.start()]
