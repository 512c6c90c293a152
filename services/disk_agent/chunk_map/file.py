"""The file of a chunk map: two header slots, and pages of records; see `chunk_map`."""

import json
import os
import struct
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import xxhash

from services.disk_agent.chunk_map.digests import DIGEST_BYTES, XXH3_128
from services.disk_agent.transfer_failures import MapUnusable

PAGE_BYTES = 4096
CHECKSUM_BYTES = 16
NO_DIGEST = bytes(DIGEST_BYTES)
WORD = struct.Struct("<I")
RECORD_BYTES = WORD.size + DIGEST_BYTES
RECORDS_PER_PAGE = (PAGE_BYTES - CHECKSUM_BYTES) // RECORD_BYTES
HEADER_SLOTS = 2
_MAGIC = b"v2c-map1"
# Fields in the headers of earlier versions that `Header` no longer has.
_RETIRED_FIELDS = ("complete_snapshot", "grown_from_bytes")


class Kind(IntEnum):
    """What the map records about a chunk on the target."""

    UNKNOWN = 0
    ZERO = 1
    DATA = 2
    # A pass wrote a part of it: the content is right, but no digest of the whole chunk was taken.
    UNDIGESTED = 3


# Maps the first byte of a record, the lowest of its word, to the record's kind.
_KIND_OF = bytes(low & 3 for low in range(256))


class Record(NamedTuple):
    """One chunk: its kind, the sequence number of the pass that wrote it, and its digest."""

    kind: Kind
    sequence: int
    digest: bytes


@dataclass(frozen=True)
class PassKey:
    """Identifies a pass: one with the same key continues where the earlier run stopped."""

    pass_id: str
    snapshot: str
    mode: str


@dataclass(frozen=True)
class Header:
    """Identity and state of a map. `intent_*` bound the chunks a re-sync may be writing."""

    identity: int
    disk_id: str
    capacity_bytes: int
    chunk_bytes: int
    generation: int = 0
    sequence: int = 0
    pass_id: str = ""
    snapshot: str = ""
    mode: str = ""
    complete: bool = False
    # The target held nothing but zeroes when this map was made, and one snapshot fills it.
    blank_target: bool = False
    # The newest pass that completed; empty before the first.
    complete_pass_id: str = ""
    # The length of the image's file when that pass completed; 0 in maps of earlier versions.
    image_bytes: int = 0
    intent_first: int = 0
    intent_stop: int = 0
    # The algorithm of all digests in the map. Maps of earlier versions do not name it.
    digest: str = XXH3_128

    @property
    def key(self) -> PassKey:
        """The key of the current pass."""
        return PassKey(self.pass_id, self.snapshot, self.mode)


def read_header(fd: int, slot: int) -> Header | None:
    """The header in a slot; None when it is torn or damaged."""
    page = os.pread(fd, PAGE_BYTES, slot * PAGE_BYTES)
    checksum, body = page[:CHECKSUM_BYTES], page[CHECKSUM_BYTES:]
    if len(page) < PAGE_BYTES or xxhash.xxh3_128_digest(body) != checksum:
        return None
    if not body.startswith(_MAGIC):
        return None
    start = len(_MAGIC) + 4
    length = int.from_bytes(body[len(_MAGIC) : start], "little")
    fields = json.loads(body[start : start + length])
    for name in _RETIRED_FIELDS:
        fields.pop(name, None)
    return Header(**fields)


def recorded_chunk_bytes(path: Path) -> int:
    """The chunk size of the map in a file; 0 when there is none that can be read."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        headers = [read_header(fd, slot) for slot in range(HEADER_SLOTS)]
    finally:
        os.close(fd)
    return max((header.chunk_bytes for header in headers if header is not None), default=0)


def write_header(fd: int, path: Path, header: Header) -> None:
    """Write a header over the older slot. Raises MapUnusable when its names are too long."""
    text = json.dumps(asdict(header), sort_keys=True).encode()
    body = _MAGIC + len(text).to_bytes(4, "little") + text
    if len(body) > PAGE_BYTES - CHECKSUM_BYTES:
        raise MapUnusable(f"the names in the header of {path} are too long")
    body = body.ljust(PAGE_BYTES - CHECKSUM_BYTES, b"\0")
    slot = header.generation % HEADER_SLOTS
    os.pwrite(fd, xxhash.xxh3_128_digest(body) + body, slot * PAGE_BYTES)


def page_checksum(body: bytes | bytearray, identity: int, index: int) -> bytes:
    """The checksum of a page's records. Map and page number enter it, so that no page is taken for
    another.
    """
    return xxhash.xxh3_128_digest(body, seed=identity ^ index)


def kinds(page: bytearray, start: int, stop: int) -> bytes:
    """The kinds of the records between two offsets of a page, a byte each."""
    return bytes(page[start:stop:RECORD_BYTES].translate(_KIND_OF))


def page_offset(index: int) -> int:
    """Where a page lies in the file."""
    return (HEADER_SLOTS + index) * PAGE_BYTES


def sync_directory(path: Path) -> None:
    """Make a rename in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
