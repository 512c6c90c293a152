"""Byte ranges of a disk: checking those that a caller sent, and cutting them along chunks."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


class Range(NamedTuple):
    """`length_bytes` bytes of a disk, beginning at `offset_bytes`."""

    offset_bytes: int
    length_bytes: int

    @property
    def end_bytes(self) -> int:
        """The first byte after the range."""
        return self.offset_bytes + self.length_bytes


class RangeError(ValueError):
    """Ranges that cannot be areas of the disk. Nothing may be written because of them."""


def checked_ranges(ranges: Iterable[Range], capacity_bytes: int) -> list[Range]:
    """Sort ranges, drop empty ones and join neighbours.

    vCenter returns changed areas page by page in ascending order, but a set made of several pages
    or passes need not be sorted. Errors that sorting does not remove are refused.

    Raises RangeError for a negative offset or length, a range that ends after the disk, or two
    ranges that overlap.
    """
    checked: list[Range] = []
    for offset, length in sorted(ranges):
        if offset < 0 or length < 0:
            raise RangeError(f"range at {offset} of {length} bytes has a negative number")
        if offset + length > capacity_bytes:
            raise RangeError(
                f"range at {offset} of {length} bytes ends after the disk's {capacity_bytes} bytes"
            )
        if length == 0:
            continue
        last = checked[-1] if checked else None
        if last is not None and offset < last.end_bytes:
            raise RangeError(f"range at {offset} overlaps the one at {last.offset_bytes}")
        checked.append(Range(offset, length))
    return united(checked)


def united(ranges: Iterable[Range]) -> list[Range]:
    """The union of the ranges: ascending, with gaps between them."""
    merged: list[Range] = []
    for offset, length in sorted(ranges):
        last = merged[-1] if merged else None
        if last is not None and offset <= last.end_bytes:
            end = max(last.end_bytes, offset + length)
            merged[-1] = Range(last.offset_bytes, end - last.offset_bytes)
        else:
            merged.append(Range(offset, length))
    return merged


def total_bytes(ranges: Iterable[Range]) -> int:
    """The sum of the ranges' lengths."""
    return sum(length for _, length in ranges)


def by_chunk(ranges: Sequence[Range], chunk_bytes: int) -> Iterator[tuple[int, list[Range]]]:
    """Cut sorted ranges along chunks: (chunk index, the pieces in that chunk), ascending."""
    index = -1
    pieces: list[Range] = []
    for offset, length in ranges:
        end = offset + length
        while offset < end:
            chunk = offset // chunk_bytes
            stop = min(end, (chunk + 1) * chunk_bytes)
            if chunk != index:
                if pieces:
                    yield index, pieces
                index, pieces = chunk, []
            pieces.append(Range(offset, stop - offset))
            offset = stop
    if pieces:
        yield index, pieces


def chunk_runs(ranges: Iterable[Range], chunk_bytes: int) -> Iterator[tuple[int, int]]:
    """The chunks (first, stop) that each range touches; two ranges may touch the same chunk."""
    for offset, length in ranges:
        yield offset // chunk_bytes, -(-(offset + length) // chunk_bytes)


def near_merged(pieces: Sequence[Range], gap_bytes: int) -> list[Range]:
    """Join pieces whose gap is at most `gap_bytes`: one larger request beats two small ones."""
    merged = [pieces[0]]
    for piece in pieces[1:]:
        last = merged[-1]
        if piece.offset_bytes - last.end_bytes <= gap_bytes:
            merged[-1] = Range(last.offset_bytes, piece.end_bytes - last.offset_bytes)
        else:
            merged.append(piece)
    return merged
