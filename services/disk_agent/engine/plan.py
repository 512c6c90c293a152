"""Makes the tasks of a pass from runs of extents: single chunks, and runs of zero chunks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from services.disk_agent.chunk_map.chunk_map import ChunkMap
from services.disk_agent.engine.endpoint import Extent
from services.disk_agent.engine.progress import Meter
from services.disk_agent.engine.ranges import Range


@dataclass(slots=True)
class ChunkTask:
    """One chunk: its areas to read (`data`) and its areas known to be zeroes (`zero`).

    `whole` is true when the two cover the chunk, so that its digest can be taken. `changed` are the
    areas to write. `asked_bytes` is the length of the runs in the chunk, without gaps between them
    that are read too.
    """

    index: int
    offset_bytes: int
    length_bytes: int
    data: list[Range] = field(default_factory=list)
    zero: list[Range] = field(default_factory=list)
    asked_bytes: int = 0
    whole: bool = False
    changed: list[Range] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ZeroTask:
    """Whole chunks `first` to `first + count - 1`, which read as zeroes."""

    first: int
    count: int
    offset_bytes: int
    length_bytes: int


Task = ChunkTask | ZeroTask


class Planner:
    """Cuts runs into tasks along the chunks of a map.

    With a `meter`, chunks that the map records as done get no task; the meter counts them.
    """

    def __init__(
        self, chunk_map: ChunkMap, meter: Meter | None = None, *, zero_run_chunks: int = 1024
    ) -> None:
        header = chunk_map.header
        self._map = chunk_map
        self._chunk = header.chunk_bytes
        self._capacity = header.capacity_bytes
        self._zero_run_chunks = zero_run_chunks
        self._meter = meter
        self._skip_done = meter is not None and chunk_map.resumed

    def tasks(self, runs: Iterable[Extent]) -> Iterator[Task]:
        """The tasks for ascending runs which may leave gaps between them."""
        open_task: ChunkTask | None = None
        for offset, length, zero in runs:
            end = offset + length
            while offset < end:
                index = offset // self._chunk
                start, stop = self._bounds(index)
                if open_task is not None and open_task.index != index:
                    yield from self._finished(open_task)
                    open_task = None
                if zero and offset == start and end >= stop:
                    last = self._chunks_before(end)
                    yield from self._zeroes(index, last)
                    offset = self._bounds(last - 1)[1]
                    continue
                if open_task is None:
                    open_task = ChunkTask(index, start, stop - start)
                piece = Range(offset, min(end, stop) - offset)
                (open_task.zero if zero else open_task.data).append(piece)
                offset = piece.end_bytes
        if open_task is not None:
            yield from self._finished(open_task)

    def _finished(self, task: ChunkTask) -> Iterator[Task]:
        covered = sum(r.length_bytes for r in task.data) + sum(r.length_bytes for r in task.zero)
        task.asked_bytes = covered
        task.changed = task.data
        if self._skip_done and self._map.is_done(task.index):
            self._count(task.offset_bytes + task.length_bytes, covered)
            return
        self._count(task.offset_bytes + task.length_bytes, 0)
        task.whole = covered == task.length_bytes
        if task.whole and not task.data:
            yield ZeroTask(task.index, 1, task.offset_bytes, task.length_bytes)
            return
        if not task.whole and 2 * covered >= task.length_bytes:
            # The bytes between changed areas are equal on both sides. Reading them too is cheap
            # and gives the chunk a digest again; writing them would double a delta pass's time.
            task.data, task.whole = _rest_as_data(task), True
        yield task

    def _zeroes(self, first: int, stop: int) -> Iterator[Task]:
        at = first
        runs = self._map.undone_runs(first, stop) if self._skip_done else iter([(first, stop)])
        for begin, end in runs:
            self._count_done(at, begin)
            at = end
            while begin < end:
                count = min(end - begin, self._zero_run_chunks)
                offset = begin * self._chunk
                length = self._bounds(begin + count - 1)[1] - offset
                self._count(offset + length, 0)
                yield ZeroTask(begin, count, offset, length)
                begin += count
        self._count_done(at, stop)

    def _count_done(self, first: int, stop: int) -> None:
        if first < stop:
            end = self._bounds(stop - 1)[1]
            self._count(end, end - first * self._chunk)

    def _count(self, end_bytes: int, done_bytes: int) -> None:
        if self._meter is not None:
            self._meter.planned(end_bytes, done_bytes)

    def _bounds(self, index: int) -> tuple[int, int]:
        start = index * self._chunk
        return start, min(start + self._chunk, self._capacity)

    def _chunks_before(self, end: int) -> int:
        """The number of chunks that end at or before a byte."""
        return self._map.chunks if end >= self._capacity else end // self._chunk


def _rest_as_data(task: ChunkTask) -> list[Range]:
    """Everything of the chunk that is not known to be zero."""
    rest: list[Range] = []
    at = task.offset_bytes
    for zero in task.zero:
        if zero.offset_bytes > at:
            rest.append(Range(at, zero.offset_bytes - at))
        at = zero.end_bytes
    end = task.offset_bytes + task.length_bytes
    if at < end:
        rest.append(Range(at, end - at))
    return rest
