"""Range sets: the changed areas of a pass, checked before they are stored and when they are read.

A file is a checksum, then pairs of little-endian u64 (offset, length), ascending and with gaps.
"""

import os
import re
import struct
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path

import xxhash

from services.disk_agent.engine.ranges import Range, RangeError, checked_ranges, total_bytes
from services.disk_agent.transfer_failures import TransferFailure
from services.kit.failure import Code

_PAIR = struct.Struct("<QQ")
_CHECKSUM_BYTES = 16
_SUFFIX = ".ranges"
_FRESH = ".new"
_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,199}$")


class RangesRefused(TransferFailure):
    """The areas do not fit the disk, or the set's id is not valid."""

    code = Code.INVALID_ARGUMENT
    reason = "RANGES_REFUSED"
    hint = "query the changed areas again from the first page; nothing was written"


class RangesMissing(TransferFailure):
    """There is no range set with this id, or its file is damaged."""

    code = Code.NOT_FOUND
    reason = "RANGES_NOT_FOUND"
    hint = "send the range set before starting the transfer"


@dataclass(frozen=True)
class RangeSummary:
    """The size of a range set after neighbours were merged."""

    count: int
    total_bytes: int


class RangeSets:
    """Range sets in one directory. Methods block."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, ranges_id: str) -> Path:
        """The file of a set. Raises RangesRefused for an id that is not valid."""
        if not _ID.match(ranges_id):
            raise RangesRefused(f"{ranges_id!r} cannot be the id of a range set")
        return self._directory / f"{ranges_id}{_SUFFIX}"

    def put(self, ranges_id: str, areas: Iterable[Range], capacity_bytes: int) -> RangeSummary:
        """Check and store a set, replacing an earlier one with this id.

        Raises RangesRefused, and stores nothing in that case.
        """
        path = self.path(ranges_id)
        try:
            ranges = checked_ranges(areas, capacity_bytes)
        except RangeError as error:
            raise RangesRefused(f"range set {ranges_id}: {error}") from error
        body = b"".join(_PAIR.pack(*area) for area in ranges)
        self._directory.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.name + _FRESH)
        with fresh.open("wb") as file:
            file.write(xxhash.xxh3_128_digest(body) + body)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        return RangeSummary(len(ranges), total_bytes(ranges))

    def delete(self, ranges_id: str) -> None:
        """Remove a set; a missing one is no error."""
        self.path(ranges_id).unlink(missing_ok=True)

    def prune(self, keep: Container[str], stored_before: float) -> int:
        """Remove the sets not in ``keep`` that were stored before a time (seconds since the epoch).

        A half-written file that a crash left counts as its set. Returns how many were removed.
        """
        count = 0
        for path in self._directory.glob(f"*{_SUFFIX}*"):
            ranges_id = path.name.removesuffix(_FRESH).removesuffix(_SUFFIX)
            if ranges_id not in keep and path.stat().st_mtime < stored_before:
                path.unlink()
                count += 1
        return count


def load_ranges(path: Path) -> list[Range]:
    """Read a stored set. Raises RangesMissing when there is none, or it is damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise RangesMissing(f"there is no range set {path.stem}") from error
    checksum, body = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
    if len(body) % _PAIR.size or xxhash.xxh3_128_digest(body) != checksum:
        raise RangesMissing(f"the range set {path.stem} is damaged")
    return [Range(*pair) for pair in _PAIR.iter_unpack(body)]
