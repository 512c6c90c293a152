"""Whether the image is the one that its chunk map describes, and still the file at its path."""

import errno
import itertools
import os
import random
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

import nbd

from services.disk_agent.chunk_map.chunk_map import ChunkMap, Kind
from services.disk_agent.engine.endpoint import Endpoint
from services.disk_agent.engine.extents import is_blank
from services.disk_agent.transfer_failures import TargetLostData, TargetReplaced

# How many chunks are read back.
_SAMPLES = 8
# This number of differing chunks, or more, means another image; fewer are damage.
_ANOTHER_IMAGE = 2


class Image(Enum):
    """How an image compares with its chunk map; the values are for messages."""

    # Also with a single differing chunk: that is damage, which verification finds and repairs.
    AS_RECORDED = "the image holds what its chunk map records"
    EMPTY = "the image is empty, but its chunk map records data"
    ANOTHER = "the image does not hold what its chunk map records"


def image_file(path: str) -> os.stat_result | None:
    """The file at a path; None when there is none."""
    try:
        return Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def check_in_place(path: str, expected: os.stat_result | None) -> int:
    """Check that a path still names the same file, not shortened; returns the file's length.

    Raises TargetReplaced when the image was removed, replaced or cut while it was in use.
    """
    found = image_file(path)
    what = ""
    if found is None or expected is None:
        what = "removed"
    elif not os.path.samestat(found, expected):
        what = "replaced by another file"
    elif found.st_size < expected.st_size:
        what = f"cut from {expected.st_size} to {found.st_size} bytes"
    if found is None or what:
        raise TargetReplaced(f"the image {path} was {what} meanwhile")
    return found.st_size


def check_kept(chunk_map: ChunkMap, target: Endpoint, samples: Sequence[int]) -> None:
    """Read back a sample of the chunks that a pass has written, at the end of the pass.

    Raises TargetLostData when the target does not hold one of them. Those chunks become UNKNOWN in
    the map, so that a retry copies them.
    """
    differing = [index for index in samples if not _is_as_recorded(chunk_map, index, target)]
    if differing:
        chunk_map.forget(differing)
        raise TargetLostData(
            f"the image does not hold what was written to it: {len(differing)} of {len(samples)} "
            "chunks read back differ; it was changed by another program, or its storage loses data"
        )


def compared(chunk_map: ChunkMap, target: Endpoint, image: Path) -> Image:
    """How the image compares with its map, by its length and a sample of its chunks."""
    # A QCOW2 file that was cut is no error to QEMU: clusters behind its end read as zeroes.
    cut = image.stat().st_size < chunk_map.header.image_bytes
    data = _some(chunk_map, Kind.DATA)
    if data and not cut and not _differ(chunk_map, data, target):
        return Image.AS_RECORDED
    if is_blank(target):
        return Image.EMPTY if chunk_map.holds_data() else Image.AS_RECORDED
    differ = _differ(chunk_map, data or _some(chunk_map, Kind.ZERO), target)
    return Image.ANOTHER if cut or differ else Image.AS_RECORDED


def _differ(chunk_map: ChunkMap, samples: Sequence[int], target: Endpoint) -> bool:
    """Whether the number of differing samples means another image, and not damage of this one."""
    differing = sum(not _is_as_recorded(chunk_map, index, target) for index in samples)
    return bool(differing) and differing >= min(_ANOTHER_IMAGE, len(samples))


def _is_as_recorded(chunk_map: ChunkMap, index: int, target: Endpoint) -> bool:
    header, record = chunk_map.header, chunk_map[index]
    offset = index * header.chunk_bytes
    length = min(header.chunk_bytes, header.capacity_bytes - offset)
    if offset + length > target.size_bytes:
        return False
    try:
        content = target.handle.pread(length, offset)
    except nbd.Error as error:
        raise target.failure(error.errnum or errno.EIO, error.string, writing=False) from error
    if record.kind is Kind.ZERO:
        return not any(content)
    return chunk_map.digest_of(memoryview(content)) == record.digest


def _some(chunk_map: ChunkMap, kind: Kind) -> list[int]:
    """Chunks of a kind, chosen at random, one from each of `_SAMPLES` equal parts of them."""
    counts = [found.count(kind) for _, found in chunk_map.kinds()]
    parts = [sum(counts) * part // _SAMPLES for part in range(_SAMPLES + 1)]
    wanted = [
        random.randrange(first, stop)  # noqa: S311 - no secret
        for first, stop in itertools.pairwise(parts)
        if first < stop
    ]
    chosen: list[int] = []
    before = 0
    for (first, found), count in zip(chunk_map.kinds(), counts, strict=True):
        here = [nth - before for nth in wanted if before <= nth < before + count]
        if here:
            indexes = [first + at for at, each in enumerate(found) if each == kind]
            chosen += [indexes[nth] for nth in here]
        before += count
    return chosen
