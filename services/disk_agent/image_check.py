"""Whether the image is the one that its chunk map describes, and still in its place."""

import errno
import itertools
import random
from pathlib import Path

import nbd

from services.disk_agent.chunk_map import ChunkMap, Kind
from services.disk_agent.engine.endpoint import Endpoint
from services.disk_agent.engine.extents import is_blank
from services.disk_agent.engine.failures import TargetReplaced

# So many chunks are read back, spread over the disk, and so many records looked at to find each.
_SAMPLES = 8
_LOOKED_AT = 256


def image_file(path: str) -> tuple[int, int] | None:
    """Which file a path names: its device and inode. None when there is none."""
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def check_in_place(path: str, expected: tuple[int, int] | None) -> None:
    """Raises TargetReplaced when the image was removed or replaced while it was being used."""
    found = image_file(path)
    if found != expected:
        what = "removed" if found is None else "replaced by another file"
        raise TargetReplaced(f"the image {path} was {what} meanwhile")


def is_described(chunk_map: ChunkMap, target: Endpoint) -> bool:
    """Whether the image holds what the map says, as far as samples can tell; False if it is empty.

    Raises TargetReplaced when it holds something else: what is not ours is not written over.
    """
    if is_blank(target):
        return not chunk_map.holds_data()
    header = chunk_map.header
    for index in _samples(chunk_map):
        offset = index * header.chunk_bytes
        length = min(header.chunk_bytes, header.capacity_bytes - offset)
        try:
            content = target.handle.pread(length, offset)
        except nbd.Error as error:
            raise target.failure(error.errnum or errno.EIO, error.string, writing=False) from error
        record = chunk_map[index]
        if record.kind is Kind.ZERO:
            same = not any(content)
        else:
            same = chunk_map.digest_of(memoryview(content)) == record.digest
        if not same:
            raise TargetReplaced(
                f"the image is not the one that the chunk map {chunk_map.path} describes: the "
                f"{length} bytes at {offset} differ"
            )
    return True


def _samples(chunk_map: ChunkMap) -> list[int]:
    """Chunks whose content is known: in each part of the disk one with data, or else zeroes."""
    count = chunk_map.chunks
    parts = [count * number // _SAMPLES for number in range(_SAMPLES + 1)]
    found: list[int] = []
    for first, stop in itertools.pairwise(parts):
        if first < stop:
            start = random.randrange(first, stop)  # noqa: S311 - no secret
            found += _sample(chunk_map, start, first, stop)
    return found


def _sample(chunk_map: ChunkMap, start: int, first: int, stop: int) -> list[int]:
    zero: list[int] = []
    length = stop - first
    for step in range(min(_LOOKED_AT, length)):
        index = first + (start - first + step) % length
        kind = chunk_map[index].kind
        if kind is Kind.DATA:
            return [index]
        if kind is Kind.ZERO and not zero:
            zero = [index]
    return zero
