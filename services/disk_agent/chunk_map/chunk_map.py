"""The durable map of a disk's chunks: what the target holds, and the digests taken when reading.

One file per disk. Two header slots of one page each, then pages of `RECORDS_PER_PAGE` fixed-size
records. Every page carries its own checksum, seeded with the map's identity and its index:

- A torn or damaged page makes its chunks UNKNOWN: they are copied again, and nothing is lost.
- A header is written to the slot that does not hold the newest one; a torn write leaves the other.
- An unwritten page (a hole in the file) reads as UNKNOWN chunks, so an empty map costs nothing.

A record says what the target holds (`Kind`), its digest, and in which pass it was written. A pass
is resumable because a chunk counts as done only when its record carries the pass's sequence number.
The caller flushes the target before `checkpoint`: the map never claims more than storage holds.

Size: 20 bytes a chunk, so 20 MiB for each TiB of 1 MiB chunks.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from services.disk_agent.chunk_map.digests import ALGORITHMS, DIGEST_BYTES, XXH3_128
from services.disk_agent.chunk_map.file import (
    CHECKSUM_BYTES,
    HEADER_SLOTS,
    NO_DIGEST,
    RECORD_BYTES,
    RECORDS_PER_PAGE,
    WORD,
    Header,
    Kind,
    PassKey,
    Record,
    kinds,
    read_header,
    sync_directory,
    write_header,
)
from services.disk_agent.chunk_map.pages import MapPages
from services.disk_agent.transfer_failures import MapUnusable

__all__ = ["NO_DIGEST", "ChunkMap", "Header", "Kind", "PassKey", "Record"]

# While many chunks are made UNKNOWN, the map is written each time this number of pages has changed.
_FORGOTTEN_PAGES = 4096


class ChunkMap:
    """An open chunk map. Not thread-safe; one process has it open at a time."""

    def __init__(self, fd: int, path: Path, header: Header) -> None:
        self._fd = fd
        self.path = path
        self.header = header
        algorithm = ALGORITHMS.get(header.digest)
        if algorithm is None:
            raise MapUnusable(f"the chunk map {path} has digests of unknown kind {header.digest!r}")
        self.digest_of = algorithm.digest_of
        self._begin_digest = algorithm.begin
        self._pages = MapPages(fd, header.identity)
        self._resumed = False

    # -- opening and closing

    @classmethod
    def create(
        cls,
        path: Path,
        disk_id: str,
        capacity_bytes: int,
        chunk_bytes: int,
        digest: str = XXH3_128,
    ) -> Self:
        """Create an empty map, replacing a file at `path`; `digest` names the algorithm."""
        identity = int.from_bytes(os.urandom(8)) >> 1
        header = Header(identity, disk_id, capacity_bytes, chunk_bytes, digest=digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.name + ".new")
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        created = cls(fd, path, header)
        write_header(fd, path, header)
        os.fsync(fd)
        fresh.replace(path)
        sync_directory(path.parent)
        return created

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open an existing map.

        Raises FileNotFoundError, or MapUnusable when neither header slot is intact or the digests'
        algorithm is not known.
        """
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            headers = [read_header(fd, slot) for slot in range(HEADER_SLOTS)]
            intact = [header for header in headers if header is not None]
            if not intact:
                raise MapUnusable(f"the chunk map {path} is corrupt: no header slot is intact")
            return cls(fd, path, max(intact, key=lambda header: header.generation))
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Close the file. Records since the last checkpoint are dropped."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- passes

    @property
    def chunks(self) -> int:
        """The number of chunks of the disk; the last one may be short."""
        return -(-self.header.capacity_bytes // self.header.chunk_bytes)

    @property
    def resumed(self) -> bool:
        """Whether the current pass was begun by an earlier `begin_pass`."""
        return self._resumed

    def begin_pass(
        self, key: PassKey, *, stale: Iterable[tuple[int, int]] = (), blank_target: bool = False
    ) -> None:
        """Begin a pass, or continue it if the map is bound to the same `key`.

        `stale` are runs (first, stop) of chunks that the pass is going to change: their digests
        are dropped before the first write, because a crash may leave the old or the new content.
        If this pass does not end, they are among `pending_runs` of the next one. The change is
        durable when the call returns.
        """
        old = self.header
        self._resumed = old.key == key
        if self._resumed:
            self._forget_intent()
            self.checkpoint(force_header=True)
            return
        self._forget_intent()
        # The new sequence number is written first: if a crash comes before the headers are, the
        # chunks made UNKNOWN here carry this number, and the next pass finds them as pending.
        self.header = replace(old, sequence=old.sequence + 1, intent_first=0, intent_stop=0)
        self.checkpoint(force_header=True)
        self._forget(stale, WORD.pack(self.header.sequence << 2))
        self.header = replace(
            self.header,
            pass_id=key.pass_id,
            snapshot=key.snapshot,
            mode=key.mode,
            complete=False,
            blank_target=blank_target,
        )
        self._write_headers()

    def rebind(self, key: PassKey, changed: Iterable[tuple[int, int]]) -> None:
        """Continue a pass on another snapshot.

        `changed` are the runs (first, stop) of chunks with areas changed between the two snapshots:
        they are copied again; all other chunks that are done stay done.
        """
        self._forget(changed)
        self.header = replace(
            self.header,
            pass_id=key.pass_id,
            snapshot=key.snapshot,
            mode=key.mode,
            complete=False,
            blank_target=False,
        )
        self._resumed = True
        self._write_headers()

    def complete_pass(self, image_bytes: int = 0) -> None:
        """Record that the current pass is done; this is durable when the call returns.

        `image_bytes` is the length of the image's file: a shorter one later has been cut.
        Raises MapUnusable when the map's file was removed or replaced.
        """
        self._check_in_place()
        self.header = replace(
            self.header,
            complete=True,
            complete_pass_id=self.header.pass_id,
            image_bytes=image_bytes,
            intent_first=0,
            intent_stop=0,
        )
        self.checkpoint(force_header=True)

    def grow(self, capacity_bytes: int) -> None:
        """Extend the map: new chunks are UNKNOWN, and so is the former last one if it was short."""
        old = self.header
        if old.capacity_bytes % old.chunk_bytes:
            self._forget([(self.chunks - 1, self.chunks)])
        # No mode, so that the next pass has another key: one that has ended is never continued.
        mode = "" if old.complete else old.mode
        self.header = replace(old, capacity_bytes=capacity_bytes, complete=False, mode=mode)
        self._write_headers()

    # -- records

    def __getitem__(self, index: int) -> Record:
        page, at = self._locate(index)
        (word,) = WORD.unpack_from(page, at)
        start = at + WORD.size
        return Record(Kind(word & 3), word >> 2, bytes(page[start : start + DIGEST_BYTES]))

    def is_done(self, index: int) -> bool:
        """Whether the current pass recorded the chunk."""
        page, at = self._locate(index)
        (word,) = WORD.unpack_from(page, at)
        return bool(word & 3) and word >> 2 == self.header.sequence

    def undone_runs(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """Runs (first, stop) of chunks that the current pass has not recorded yet."""
        begin = -1
        for index in range(first, stop):
            if self.is_done(index):
                if begin >= 0:
                    yield begin, index
                begin = -1
            elif begin < 0:
                begin = index
        if begin >= 0:
            yield begin, stop

    def put(self, first: int, count: int, kind: Kind, digest: bytes = NO_DIGEST) -> None:
        """Record chunks as done in the current pass; durable with the next checkpoint."""
        record = WORD.pack(self.header.sequence << 2 | kind) + digest
        self._fill(first, count, record)

    def pending_runs(self) -> Iterator[tuple[int, int]]:
        """Runs (first, stop) of chunks that must be copied although no changed area lists them.

        They are UNKNOWN for another reason than being `stale` in this pass: an earlier pass that
        never ended had them to write, they lie behind the former end of a disk that grew, or their
        records were damaged.
        """
        expected = WORD.pack(self.header.sequence << 2)
        begin = -1
        index = 0
        for page, stop in self._filled_pages():
            first = index
            index += (stop - CHECKSUM_BYTES) // RECORD_BYTES
            if Kind.UNKNOWN not in kinds(page, CHECKSUM_BYTES, stop):
                if begin >= 0:
                    yield begin, first
                    begin = -1
                continue
            for each in range(first, index):
                at = CHECKSUM_BYTES + (each - first) * RECORD_BYTES
                missing = not page[at] & 3 and page[at : at + WORD.size] != expected
                if missing and begin < 0:
                    begin = each
                elif not missing and begin >= 0:
                    yield begin, each
                    begin = -1
        if begin >= 0:
            yield begin, index

    def kinds(self) -> Iterator[tuple[int, bytes]]:
        """The kinds of all chunks, a byte each, page by page with the number of the first chunk."""
        for number, (page, stop) in enumerate(self._filled_pages()):
            yield number * RECORDS_PER_PAGE, kinds(page, CHECKSUM_BYTES, stop)

    def forget(self, indexes: Iterable[int]) -> None:
        """Make chunks UNKNOWN; this is durable when the call returns."""
        self._forget((index, index + 1) for index in indexes)
        self.checkpoint()

    def holds_data(self) -> bool:
        """Whether any chunk on the target is recorded to hold data."""
        return self._has_any(Kind.DATA, Kind.UNDIGESTED)

    def lacks_digests(self) -> bool:
        """Whether the map has no digest of some chunk, and does not record it as zero either."""
        return self._has_any(Kind.UNKNOWN, Kind.UNDIGESTED)

    def digest(self) -> str:
        """The digest over all chunks' kinds and digests in order: equal for equal content.

        Two maps can be compared only if both use the same algorithm and have a digest of every
        chunk with data: a chunk without one enters by its kind alone.
        """
        state = self._begin_digest()
        for page, stop in self._filled_pages():
            each = kinds(page, CHECKSUM_BYTES, stop)
            columns = bytearray(len(each) * (1 + DIGEST_BYTES))
            columns[:: 1 + DIGEST_BYTES] = each
            for number in range(DIGEST_BYTES):
                start = CHECKSUM_BYTES + WORD.size + number
                columns[1 + number :: 1 + DIGEST_BYTES] = page[start:stop:RECORD_BYTES]
            state.update(columns)
        return state.hexdigest()[: 2 * DIGEST_BYTES]

    def _has_any(self, *wanted: Kind) -> bool:
        return any(kind in found for _, found in self.kinds() for kind in wanted)

    def _filled_pages(self) -> Iterator[tuple[bytearray, int]]:
        """All pages, each with the offset where its last record ends."""
        for first in range(0, self.chunks, RECORDS_PER_PAGE):
            count = min(self.chunks - first, RECORDS_PER_PAGE)
            yield self._pages.read(first // RECORDS_PER_PAGE), CHECKSUM_BYTES + count * RECORD_BYTES

    @property
    def damaged_pages(self) -> int:
        """The number of pages that were found damaged."""
        return len(self._pages.damaged)

    @property
    def dirty_pages(self) -> int:
        """The number of changed pages that the next checkpoint writes."""
        return self._pages.dirty

    def checkpoint(
        self, *, intent: tuple[int, int] | None = None, force_header: bool = False
    ) -> None:
        """Write the changed pages and fsync. The caller must have flushed the target before.

        `intent` is the window (first, stop) of chunks that may be overwritten from now on while
        their records are still in the map.
        """
        self._pages.write()
        if intent is not None and intent != (self.header.intent_first, self.header.intent_stop):
            self.header = replace(self.header, intent_first=intent[0], intent_stop=intent[1])
            force_header = True
        if force_header:
            # Records first: a header must not refer to pages that were not written.
            os.fdatasync(self._fd)
            self.header = replace(self.header, generation=self.header.generation + 1)
            write_header(self._fd, self.path, self.header)
        os.fdatasync(self._fd)
        self._pages.written()

    def _check_in_place(self) -> None:
        try:
            there = os.path.samestat(os.fstat(self._fd), self.path.stat())
        except FileNotFoundError:
            there = False
        if not there:
            raise MapUnusable(f"the chunk map {self.path} was removed or replaced meanwhile")

    def _write_headers(self) -> None:
        """Write both slots: if one is damaged, the other must not belong to an earlier pass."""
        for _ in range(HEADER_SLOTS):
            self.checkpoint(force_header=True)

    # -- pages

    def _forget_intent(self) -> None:
        """Make the chunks of the intent window UNKNOWN: a killed re-sync may have written them."""
        header = self.header
        stop = min(header.intent_stop, self.chunks)
        self._forget(self.undone_runs(header.intent_first, stop))
        self.header = replace(header, intent_first=0, intent_stop=0)

    def _forget(self, runs: Iterable[tuple[int, int]], word: bytes = bytes(WORD.size)) -> None:
        """Make runs (first, stop) of chunks UNKNOWN; those that already are stay as they are."""
        record = word + NO_DIGEST
        for first, stop in runs:
            while first < stop:
                end = min(stop, (first // RECORDS_PER_PAGE + 1) * RECORDS_PER_PAGE)
                page, at = self._locate(first)
                found = kinds(page, at, at + (end - first) * RECORD_BYTES)
                if Kind.UNKNOWN not in found:
                    self._fill(first, end - first, record)
                else:
                    for number, kind in enumerate(found, first):
                        if kind != Kind.UNKNOWN:
                            self._fill(number, 1, record)
                first = end
                if self._pages.dirty >= _FORGOTTEN_PAGES:
                    self.checkpoint()

    def _fill(self, first: int, count: int, record: bytes) -> None:
        while count > 0:
            number, slot = divmod(first, RECORDS_PER_PAGE)
            some = min(count, RECORDS_PER_PAGE - slot)
            page = self._pages.change(number)
            at = CHECKSUM_BYTES + slot * RECORD_BYTES
            page[at : at + some * RECORD_BYTES] = record * some
            first += some
            count -= some

    def _locate(self, index: int) -> tuple[bytearray, int]:
        number, slot = divmod(index, RECORDS_PER_PAGE)
        return self._pages.read(number), CHECKSUM_BYTES + slot * RECORD_BYTES
