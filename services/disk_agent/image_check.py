"""Whether the image is the one that its chunk map describes, and still in its place."""

import errno
import itertools
import random
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import nbd

from services.disk_agent.chunk_map import ChunkMap, Kind
from services.disk_agent.engine.endpoint import Endpoint
from services.disk_agent.engine.extents import is_blank
from services.disk_agent.engine.failures import TargetReplaced

# So many chunks are read back, spread over the disk, and so many records looked at to find each.
_SAMPLES = 16
_LOOKED_AT = 256
# So many that differ are no damage.
_ANOTHER_IMAGE = 2


class Image(Enum):
    """What an image is to its chunk map, in the words of a message."""

    # A chunk that differs alone is damage, which verification finds and repairs.
    AS_RECORDED = "the image is what its map says"
    EMPTY = "the image is empty, its map says otherwise"
    ANOTHER = "the image does not hold what its map says"


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


def compared(chunk_map: ChunkMap, target: Endpoint) -> Image:
    """What the image is to its map, as far as some chunks of it can tell."""
    if is_blank(target):
        return Image.EMPTY if chunk_map.holds_data() else Image.AS_RECORDED
    samples = _samples(chunk_map)
    differing = sum(not _is_as_recorded(chunk_map, index, target) for index in samples)
    if differing and differing >= min(_ANOTHER_IMAGE, len(samples)):
        return Image.ANOTHER
    return Image.AS_RECORDED


def _is_as_recorded(chunk_map: ChunkMap, index: int, target: Endpoint) -> bool:
    header, record = chunk_map.header, chunk_map[index]
    offset = index * header.chunk_bytes
    length = min(header.chunk_bytes, header.capacity_bytes - offset)
    try:
        content = target.handle.pread(length, offset)
    except nbd.Error as error:
        raise target.failure(error.errnum or errno.EIO, error.string, writing=False) from error
    if record.kind is Kind.ZERO:
        return not any(content)
    return chunk_map.digest_of(memoryview(content)) == record.digest


def _samples(chunk_map: ChunkMap) -> list[int]:
    """Chunks whose content is known, one in each part of the disk: with data if there are any."""
    count = chunk_map.chunks
    parts = [count * number // _SAMPLES for number in range(_SAMPLES + 1)]
    found: dict[Kind, list[int]] = {Kind.DATA: [], Kind.ZERO: []}
    for first, stop in itertools.pairwise(parts):
        seen: set[Kind] = set()
        for index in _from_anywhere(first, stop):
            kind = chunk_map[index].kind
            if kind in found and kind not in seen:
                seen.add(kind)
                found[kind].append(index)
            if kind is Kind.DATA:
                break
    return found[Kind.DATA] or found[Kind.ZERO]


def _from_anywhere(first: int, stop: int) -> Iterator[int]:
    """Some of the numbers from `first` on, beginning anywhere and going round."""
    length = stop - first
    start = random.randrange(length) if length else 0  # noqa: S311 - no secret
    for step in range(min(_LOOKED_AT, length)):
        yield first + (start + step) % length
