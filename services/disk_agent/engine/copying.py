"""The modes that write: full copies, areas of a range set, and re-synchronisation."""

from collections.abc import Iterable, Iterator

import nbd

from services.disk_agent.chunk_map.chunk_map import ChunkMap, Kind
from services.disk_agent.chunk_map.digests import DigestOf
from services.disk_agent.engine.core import Engine, Phase, Slot
from services.disk_agent.engine.endpoint import Endpoint, Extent
from services.disk_agent.engine.plan import ChunkTask, Planner, Task, ZeroTask
from services.disk_agent.engine.progress import Meter
from services.disk_agent.engine.ranges import Range, near_merged

# Areas of a chunk with at most this gap between them are read and written with one request: a
# second round trip costs more than the gap's bytes.
_GAP_BYTES = 64 << 10
# The cluster size of images that CloudStack or the disk agent creates.
_CLUSTER_BYTES = 64 << 10
# Zero requests carry no payload, but a server answers no other request during a long one.
_ZERO_RUN_CHUNKS = 1024


class Copy:
    """Full copies and range passes: copy the runs with data, zero the others on the target.

    A blank target, which held only zeroes before and gets the data of one snapshot only, needs no
    requests for zeroes. On any other target they are written, because old data may be there.
    """

    needs_intent = False
    verifies = False
    compares = False

    def __init__(self, runs: Iterable[Extent], chunk_map: ChunkMap, meter: Meter) -> None:
        self._runs = runs
        self._digest_of = chunk_map.digest_of
        self._meter = meter
        self._blank = chunk_map.header.blank_target
        self._planner = Planner(chunk_map, meter, zero_run_chunks=_ZERO_RUN_CHUNKS)

    def tasks(self) -> Iterator[Task]:
        """Chunks and zero runs that the current pass has not recorded yet."""
        return self._planner.tasks(self._runs)

    def advance(self, engine: Engine, slot: Slot) -> None:
        """Read a chunk of the source, find its zeroes, and write it to the target."""
        task = slot.task
        if isinstance(task, ZeroTask):
            self._advance_zero(engine, slot, task)
        elif task is not None and slot.phase is Phase.START:
            slot.phase = Phase.READ
            read_source(engine, slot, task)
        elif task is not None and slot.phase is Phase.READ:
            slot.phase = Phase.WRITE
            digest_chunk(slot, task, self._digest_of)
            write_chunk(engine, slot, task, blank=self._blank)
        elif task is not None:
            self._count(slot, task)
            engine.finish(slot, task.index, 1)

    def _advance_zero(self, engine: Engine, slot: Slot, task: ZeroTask) -> None:
        if slot.phase is Phase.START:
            slot.phase = Phase.WRITE
            slot.kind = Kind.ZERO
            if not self._blank:
                engine.zero(slot, Range(task.offset_bytes, task.length_bytes))
                return
        self._meter.zero_bytes += task.length_bytes
        engine.finish(slot, task.first, task.count)

    def _count(self, slot: Slot, task: ChunkTask) -> None:
        if slot.kind is Kind.ZERO:
            self._meter.zero_bytes += task.asked_bytes
            return
        known_zero = sum(area.length_bytes for area in task.zero) if task.zero else 0
        self._meter.zero_bytes += known_zero
        self._meter.copied_bytes += task.asked_bytes - known_zero


class Resync:
    """Read the source's allocated areas and write only chunks that differ on the target.

    A chunk that the map has a digest of is compared with that digest, any other with the target.
    """

    needs_intent = True
    verifies = False
    compares = True

    def __init__(
        self, runs: Iterable[Extent], chunk_map: ChunkMap, meter: Meter, source: Endpoint
    ) -> None:
        self._runs = runs
        self._map = chunk_map
        self._digest_of = chunk_map.digest_of
        self._meter = meter
        self._source = source
        self._planner = Planner(chunk_map, meter, zero_run_chunks=_ZERO_RUN_CHUNKS)

    def tasks(self) -> Iterator[Task]:
        """All chunks that this pass has not recorded yet; zero runs as `_split` cuts them."""
        for task in self._planner.tasks(self._runs):
            yield from self._split(task) if isinstance(task, ZeroTask) else (task,)

    def _split(self, task: ZeroTask) -> Iterator[ZeroTask]:
        """Cut a zero run into runs of chunks that the map records as zero, and runs of others."""
        chunk = self._map.header.chunk_bytes
        end = task.offset_bytes + task.length_bytes
        stop = task.first + task.count
        begin = task.first
        while begin < stop:
            known = self._map[begin].kind is Kind.ZERO
            last = begin + 1
            while last < stop and (self._map[last].kind is Kind.ZERO) is known:
                last += 1
            length = min(last * chunk, end) - begin * chunk
            yield ZeroTask(begin, last - begin, begin * chunk, length)
            begin = last

    def advance(self, engine: Engine, slot: Slot) -> None:
        """Read the source, compare, and write what differs."""
        task = slot.task
        if isinstance(task, ZeroTask):
            self._advance_zero(engine, slot, task)
        elif task is None:
            return
        elif slot.phase is Phase.START:
            slot.phase = Phase.READ
            read_source(engine, slot, task)
        elif slot.phase is Phase.READ:
            self._compare(engine, slot, task)
        elif slot.phase is Phase.COMPARE:
            self._compare_bytes(engine, slot, task)
        else:
            self._count_written(slot, task)
            engine.finish(slot, task.index, 1)

    def _advance_zero(self, engine: Engine, slot: Slot, task: ZeroTask) -> None:
        if slot.phase is Phase.WRITE:
            self._meter.zero_bytes += task.length_bytes
        else:
            slot.phase = Phase.WRITE
            slot.kind = Kind.ZERO
            if self._map[task.first].kind is not Kind.ZERO:
                engine.zero(slot, Range(task.offset_bytes, task.length_bytes))
                return
            self._meter.skipped_bytes += task.length_bytes
        engine.finish(slot, task.first, task.count)

    def _compare(self, engine: Engine, slot: Slot, task: ChunkTask) -> None:
        digest_chunk(slot, task, self._digest_of)
        known = self._map[task.index]
        if known.kind in (Kind.UNKNOWN, Kind.UNDIGESTED):
            slot.phase = Phase.COMPARE
            memory = slot.other if slot.other is not None else slot.memory
            engine.read(slot, engine.target, Range(task.offset_bytes, task.length_bytes), memory)
        elif known.kind is slot.kind and known.digest == slot.digest:
            self._skip(engine, slot, task)
        else:
            self._write(engine, slot, task)

    def _compare_bytes(self, engine: Engine, slot: Slot, task: ChunkTask) -> None:
        if slot.other is not None and same_bytes(
            slot.memory, slot.other, task.length_bytes, self._digest_of
        ):
            self._skip(engine, slot, task)
        else:
            self._write(engine, slot, task)

    def _skip(self, engine: Engine, slot: Slot, task: ChunkTask) -> None:
        self._meter.skipped_bytes += task.asked_bytes
        engine.finish(slot, task.index, 1)

    def _write(self, engine: Engine, slot: Slot, task: ChunkTask) -> None:
        slot.phase = Phase.WRITE
        write_chunk(engine, slot, task, blank=False)

    def _count_written(self, slot: Slot, task: ChunkTask) -> None:
        if slot.kind is Kind.ZERO:
            self._meter.zero_bytes += task.asked_bytes
        else:
            self._meter.copied_bytes += task.asked_bytes


def read_source(engine: Engine, slot: Slot, task: ChunkTask) -> None:
    """Read the data areas of a chunk into the slot's memory, and clear its zero areas there."""
    source = engine.source
    if source is None:
        raise TypeError("this mode needs a source")
    start = task.offset_bytes
    for area in task.zero:
        # Assigning to a slice of a memoryview needs a value of the same length.
        at = area.offset_bytes - start
        slot.memory[at : at + area.length_bytes] = bytes(area.length_bytes)
    if task.whole and task.zero:
        areas = task.data
    else:
        task.data = areas = near_merged(task.data, _GAP_BYTES) if task.data else []
    for area in areas:
        engine.read(slot, source, area, slot.memory)
    if not areas:
        engine.nothing_to_wait_for(slot)


def digest_chunk(slot: Slot, task: ChunkTask, digest_of: DigestOf) -> None:
    """Set the slot's kind and digest from the chunk's bytes in its memory."""
    memory = slot.memory[: task.length_bytes]
    if not task.whole:
        slot.kind = Kind.UNDIGESTED
    elif nbd.Buffer.from_buffer(memory).is_zero():
        slot.kind = Kind.ZERO
    else:
        slot.kind = Kind.DATA
        slot.digest = digest_of(memory)


def same_bytes(one: memoryview, other: memoryview, length_bytes: int, digest_of: DigestOf) -> bool:
    """Whether two buffers begin with the same bytes.

    Compares digests: Python compares two memoryviews byte by byte, a hundred times slower.
    """
    return digest_of(one[:length_bytes]) == digest_of(other[:length_bytes])


def write_chunk(engine: Engine, slot: Slot, task: ChunkTask, *, blank: bool) -> None:
    """Write a chunk's areas to the target; on a blank one zeroes need no request."""
    before = slot.pending
    if slot.kind is Kind.ZERO:
        if not blank:
            engine.zero(slot, Range(task.offset_bytes, task.length_bytes))
    else:
        # Areas are not joined over a gap that holds zero areas: those were not read.
        changed = task.changed if task.zero else near_merged(task.changed, _GAP_BYTES)
        for area in changed:
            for piece, zero in _by_content(slot, task, area):
                if not zero:
                    engine.write(slot, piece)
                elif not blank:
                    engine.zero(slot, piece)
        if not blank:
            for area in task.zero:
                engine.zero(slot, area)
    if slot.pending == before:
        engine.nothing_to_wait_for(slot)


def _by_content(slot: Slot, task: ChunkTask, area: Range) -> Iterator[tuple[Range, bool]]:
    """Cut an area into runs that hold data and runs of clusters that hold zeroes only."""
    start = area.offset_bytes - task.offset_bytes
    # In most areas one byte of each cluster already shows that no cluster is zero.
    if 0 not in bytes(slot.memory[start : start + area.length_bytes : _CLUSTER_BYTES]):
        yield area, False
        return
    buffer = nbd.Buffer.from_buffer(slot.memory)
    begin = at = area.offset_bytes
    before: bool | None = None
    while at < area.end_bytes:
        # Cut at the image's cluster boundaries: only whole clusters of zeroes save space.
        stop = min((at // _CLUSTER_BYTES + 1) * _CLUSTER_BYTES, area.end_bytes)
        zero = buffer.is_zero(at - task.offset_bytes, stop - at)
        if before is not None and zero is not before:
            yield Range(begin, at - begin), before
            begin = at
        before = zero
        at = stop
    if before is not None:
        yield Range(begin, area.end_bytes - begin), before
