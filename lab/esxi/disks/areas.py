"""Change ids and pages of areas, as QueryChangedDiskAreas has them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

from lab.esxi.model import BLOCK_BYTES, ChangedAreas, EsxiError

Runs = Iterator[tuple[int, int, bool]]
"""Runs of blocks: first block, end, and whether the run is part of the answer."""

_WINDOW_BLOCKS = 16384  # 1 GiB per step: a page of a huge disk is complete early

_CHANGE_ID = re.compile(r"((?:[0-9a-f]{2} ){7}[0-9a-f]{2}-(?:[0-9a-f]{2} ){7}[0-9a-f]{2})/(\d+)")


@dataclass(frozen=True)
class ChangeId:
    """``52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/4``: the uuid of tracking since it
    was switched on or reset (here as 32 hexadecimal digits) and the generation a snapshot closed.
    """

    tracking_uuid: str
    generation: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None when malformed."""
        match = _CHANGE_ID.fullmatch(text)
        if match is None:
            return None
        return cls(re.sub("[ -]", "", match[1]), int(match[2]))

    def __str__(self) -> str:
        pairs = re.findall("..", self.tracking_uuid)
        return f"{' '.join(pairs[:8])}-{' '.join(pairs[8:])}/{self.generation}"


def page(
    runs: Callable[[int, int], Runs], capacity_bytes: int, start_offset: int, max_areas: int
) -> ChangedAreas:
    """Collect up to ``max_areas`` areas from ``start_offset`` on.

    ``runs(first, end)`` yields the runs of those blocks, complete and in order. Raises EsxiError
    (``invalid_argument``) for a start outside the disk or a page size of zero.
    """
    if not 0 <= start_offset < capacity_bytes:
        raise EsxiError("invalid_argument", f"startOffset {start_offset} is outside the disk")
    if max_areas < 1:
        raise EsxiError("invalid_argument", "a page has at least one area")
    areas: list[tuple[int, int]] = []
    blocks = -(-capacity_bytes // BLOCK_BYTES)
    for window in range(start_offset // BLOCK_BYTES, blocks, _WINDOW_BLOCKS):
        for first, end, wanted in runs(window, min(window + _WINDOW_BLOCKS, blocks)):
            if not wanted:
                continue
            start = max(first * BLOCK_BYTES, start_offset)
            stop = min(end * BLOCK_BYTES, capacity_bytes)
            if areas and sum(areas[-1]) == start:
                areas[-1] = (areas[-1][0], stop - areas[-1][0])
            elif len(areas) == max_areas:
                return ChangedAreas(start_offset, start - start_offset, tuple(areas))
            else:
                areas.append((start, stop - start))
    return ChangedAreas(start_offset, capacity_bytes - start_offset, tuple(areas))
