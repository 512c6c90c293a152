"""The modes that only read: the target against its map, and the source against the target."""

from collections.abc import Collection, Iterable, Iterator

import nbd

from services.disk_agent.chunk_map.chunk_map import ChunkMap, Kind
from services.disk_agent.chunk_map.digests import DigestOf
from services.disk_agent.chunk_map.file import Record
from services.disk_agent.engine.copying import digest_chunk, read_source, same_bytes
from services.disk_agent.engine.core import Engine, Phase, Slot
from services.disk_agent.engine.endpoint import Endpoint, Extent
from services.disk_agent.engine.plan import ChunkTask, Planner, Task, ZeroTask
from services.disk_agent.engine.progress import Meter
from services.disk_agent.engine.ranges import Range
from services.disk_agent.transfer_failures import ContentMismatch

# Further mismatches are counted and not listed: a reader learns nothing from them.
_LISTED = 16
_ZERO_NAME = "zero"
# Chunks whose content the map does not know.
_WITHOUT_DIGEST = (Kind.UNKNOWN, Kind.UNDIGESTED)


class Mismatches:
    """Collects the chunks that differ: their offsets, expected and found digests."""

    def __init__(self, disk_id: str) -> None:
        self._disk_id = disk_id
        self._listed: list[str] = []
        self.count = 0

    def add(self, offset_bytes: int, length_bytes: int, expected: str, found: str) -> None:
        """Add one chunk."""
        self.count += 1
        if len(self._listed) < _LISTED:
            self._listed.append(
                f"offset {offset_bytes}, {length_bytes} bytes: expected {expected}, found {found}"
            )

    def differ(
        self, task: ChunkTask, expected: memoryview, found: memoryview, digest_of: DigestOf
    ) -> bool:
        """Whether a chunk's bytes differ from those expected; if so, the chunk is added."""
        length = task.length_bytes
        if same_bytes(expected, found, length, digest_of):
            return False
        names = (chunk_name(side[:length], digest_of) for side in (expected, found))
        self.add(task.offset_bytes, length, *names)
        return True

    def raise_if_any(self) -> None:
        """Raise ContentMismatch naming the disk, offsets and digests."""
        if self.count:
            raise ContentMismatch(
                f"disk {self._disk_id}: {self.count} of its chunks on the target differ: "
                + "; ".join(self._listed[:3]),
                metadata={"chunks": str(self.count), "mismatches": "; ".join(self._listed)},
            )


class VerifyTarget:
    """Read the target's allocated areas back and compare with the digests in the map.

    A chunk that was written only in part has no digest. It is compared with the source if there is
    a source, and counted as unverified otherwise.
    """

    needs_intent = False
    verifies = True

    def __init__(
        self,
        runs: Iterable[Extent],
        chunk_map: ChunkMap,
        meter: Meter,
        mismatches: Mismatches,
        source: Endpoint | None,
    ) -> None:
        self._runs = runs
        self._map = chunk_map
        self._digest_of = chunk_map.digest_of
        self._meter = meter
        self._mismatches = mismatches
        self._source = source
        self.compares = source is not None
        self._planner = Planner(chunk_map)

    def tasks(self) -> Iterator[Task]:
        """All chunks; a run of zeroes stays one task where the map knows the content, or there is
        no source.
        """
        for task in self._planner.tasks(self._runs):
            if isinstance(task, ZeroTask) and self._source is not None:
                yield from split_zeroes(self._map, task, alone=_WITHOUT_DIGEST)
            else:
                yield task

    def advance(self, engine: Engine, slot: Slot) -> None:
        """Read a chunk of the target and compare."""
        task = slot.task
        if isinstance(task, ZeroTask):
            self._check_zero_run(task)
            self._meter.zero_bytes += task.length_bytes
            engine.release(slot)
        elif task is None:
            return
        elif slot.phase is Phase.START:
            slot.phase = Phase.READ
            read_target(engine, slot, task, slot.memory)
        elif slot.phase is Phase.READ:
            self._check(engine, slot, task)
        else:
            other = slot.other if slot.other is not None else slot.memory
            self._mismatches.differ(task, other, slot.memory, self._digest_of)
            self._done(engine, slot, task)

    def _check(self, engine: Engine, slot: Slot, task: ChunkTask) -> None:
        known = self._map[task.index]
        digest_chunk(slot, task, self._digest_of)
        if known.kind in _WITHOUT_DIGEST:
            if engine.source is not None and slot.other is not None:
                slot.phase = Phase.COMPARE
                area = Range(task.offset_bytes, task.length_bytes)
                engine.read(slot, engine.source, area, slot.other)
                return
            self._meter.unverified(task.length_bytes)
            self._meter.copied_bytes += task.asked_bytes
            engine.release(slot)
            return
        if known.kind is not slot.kind or known.digest != slot.digest:
            self._mismatches.add(
                task.offset_bytes,
                task.length_bytes,
                known.digest.hex() if known.kind is Kind.DATA else _ZERO_NAME,
                slot.digest.hex() if slot.kind is Kind.DATA else _ZERO_NAME,
            )
        self._done(engine, slot, task)

    def _done(self, engine: Engine, slot: Slot, task: ChunkTask) -> None:
        self._meter.verified(task.length_bytes)
        self._meter.copied_bytes += task.asked_bytes
        engine.release(slot)

    def _check_zero_run(self, task: ZeroTask) -> None:
        chunk = self._map.header.chunk_bytes
        end = task.offset_bytes + task.length_bytes
        for index in range(task.first, task.first + task.count):
            known = self._map[index]
            length = min(chunk, end - index * chunk)
            if known.kind in _WITHOUT_DIGEST:
                self._meter.unverified(length)
                continue
            self._meter.verified(length)
            if known.kind is Kind.DATA:
                self._mismatches.add(index * chunk, length, known.digest.hex(), _ZERO_NAME)


class VerifyFull:
    """Read the source's allocated areas and the same areas of the target, and compare them."""

    needs_intent = False
    verifies = False
    compares = True

    def __init__(
        self,
        runs: Iterable[Extent],
        chunk_map: ChunkMap,
        meter: Meter,
        mismatches: Mismatches,
        target: Endpoint,
    ) -> None:
        self._runs = runs
        self._map = chunk_map
        self._digest_of = chunk_map.digest_of
        self._meter = meter
        self._mismatches = mismatches
        self._target = target
        self._planner = Planner(chunk_map)

    def tasks(self) -> Iterator[Task]:
        """All chunks; a zero run that the target does not report as zeroes becomes chunks."""
        chunk = self._map.header.chunk_bytes
        for task in self._planner.tasks(self._runs):
            if isinstance(task, ChunkTask) or self._target_is_zero(task):
                yield task
                continue
            end = task.offset_bytes + task.length_bytes
            for index in range(task.first, task.first + task.count):
                start = index * chunk
                area = Range(start, min(chunk, end - start))
                yield ChunkTask(index, *area, [], [area], area.length_bytes, True)

    def _target_is_zero(self, task: ZeroTask) -> bool:
        try:
            found = self._target.extents(task.offset_bytes, task.length_bytes)
        except nbd.Error as error:
            if self._target.is_lost():
                raise self._target.failure(error.errnum, error.string, writing=False) from error
            # The zero run is read instead, chunk by chunk.
            return False
        return all(extent.zero for extent in found)

    def advance(self, engine: Engine, slot: Slot) -> None:
        """Read both sides of a chunk and compare."""
        task = slot.task
        if isinstance(task, ZeroTask):
            self._meter.zero_bytes += task.length_bytes
            self._meter.verified(task.length_bytes, task.count)
            engine.release(slot)
        elif task is None or slot.other is None:
            return
        elif slot.phase is Phase.START:
            slot.phase = Phase.READ
            read_source(engine, slot, task)
        elif slot.phase is Phase.READ:
            slot.phase = Phase.COMPARE
            read_target(engine, slot, task, slot.other)
        else:
            self._mismatches.differ(task, slot.memory, slot.other, self._digest_of)
            self._meter.verified(task.length_bytes)
            self._meter.copied_bytes += task.asked_bytes
            engine.release(slot)


def split_zeroes(chunk_map: ChunkMap, task: ZeroTask, alone: Collection[Kind]) -> Iterator[Task]:
    """Cut a zero run so that each chunk whose kind is one of `alone` is a task of its own."""
    chunk = chunk_map.header.chunk_bytes
    first, stop = task.first, task.first + task.count
    end = task.offset_bytes + task.length_bytes
    for index in range(first, stop):
        if chunk_map[index].kind not in alone:
            continue
        if index > first:
            yield ZeroTask(first, index - first, first * chunk, (index - first) * chunk)
        area = Range(index * chunk, min(chunk, end - index * chunk))
        yield ChunkTask(index, *area, zero=[area], asked_bytes=area.length_bytes, whole=True)
        first = index + 1
    if first < stop:
        yield ZeroTask(first, stop - first, first * chunk, end - first * chunk)


def read_target(engine: Engine, slot: Slot, task: ChunkTask, memory: memoryview) -> None:
    """Read a whole chunk of the target."""
    engine.read(slot, engine.target, Range(task.offset_bytes, task.length_bytes), memory)


def chunk_name(memory: memoryview, digest_of: DigestOf) -> str:
    """The name of a chunk's content in a message: its digest, or "zero"."""
    if nbd.Buffer.from_buffer(memory).is_zero():
        return _ZERO_NAME
    return digest_of(memory).hex()


def is_recorded(known: Record, memory: memoryview, digest_of: DigestOf) -> bool:
    """Whether a chunk's content is what the map records; False where it records no content."""
    if known.kind is Kind.ZERO:
        return nbd.Buffer.from_buffer(memory).is_zero()
    return known.kind is Kind.DATA and digest_of(memory) == known.digest
