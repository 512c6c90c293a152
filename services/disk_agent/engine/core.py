"""The engine: slots in flight, completions, checkpoints and limits of a pass.

A `Strategy` decides what happens to a chunk; the engine carries it out. Each slot owns a buffer and
takes one task through its phases: whenever none of a slot's requests is outstanding, the engine
calls the strategy's `advance`, which issues the next requests or finishes the slot.
"""

import contextlib
import errno
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from services.disk_agent.chunk_map.chunk_map import NO_DIGEST, ChunkMap, Kind
from services.disk_agent.engine.checkpoints import Checkpoints
from services.disk_agent.engine.control import Control
from services.disk_agent.engine.depth import Depth
from services.disk_agent.engine.endpoint import Endpoint
from services.disk_agent.engine.plan import ChunkTask, Task
from services.disk_agent.engine.poll import PollLoop
from services.disk_agent.engine.progress import Meter
from services.disk_agent.engine.ranges import Range
from services.disk_agent.transfer_failures import TransferFailure


@dataclass(frozen=True)
class Tuning:
    """How the engine works.

    A checkpoint is made at the latest after `checkpoint_seconds` or `checkpoint_bytes` of written
    data: the most that a resumed pass copies twice. Requests of 1 MiB measured best, with
    `near_depth` chunks in flight for a source that keeps up and up to `depth` chunks for others
    (see `Depth`). A failed read is repeated after `retry_seconds`, doubled each time.
    """

    depth: int = 16
    near_depth: int = 8
    checkpoint_seconds: float = 5.0
    checkpoint_bytes: int = 1 << 30
    report_seconds: float = 0.5
    read_attempts: int = 4
    retry_seconds: float = 0.25


# How often the engine checks for due checkpoints, reports and repeated reads.
_CHORES_SECONDS = 0.002
# A re-sync may write this many chunks beyond a checkpoint before the next one.
_INTENT_CHUNKS = 8192


class Phase(Enum):
    """How far a slot's task is. A strategy uses the phases that it needs, in this order."""

    START = 0
    READ = 1
    COMPARE = 2
    WRITE = 3
    READ_BACK = 4


class Slot:
    """Holds one task in flight, a buffer for its bytes, and a second one to compare them with."""

    __slots__ = ("digest", "fed_bytes", "kind", "memory", "other", "pending", "phase", "task")

    def __init__(self, memory: memoryview, other: memoryview | None) -> None:
        self.memory = memory
        self.other = other
        self.pending = 0
        # The bytes that its task has requested from the feeder (see `Engine.run`).
        self.fed_bytes = 0
        self.phase = Phase.START
        self.task: Task | None = None
        self.kind = Kind.UNKNOWN
        self.digest = NO_DIGEST

    def reset(self, task: Task) -> None:
        """Take a new task."""
        self.task = task
        self.phase = Phase.START
        self.kind = Kind.UNKNOWN
        self.digest = NO_DIGEST


class _Read:
    """The token of a read in flight, with what repeats it. The token of a write is its slot."""

    __slots__ = ("attempts", "endpoint", "memory", "offset_bytes", "slot")

    def __init__(
        self, slot: Slot, endpoint: Endpoint, memory: memoryview, offset_bytes: int
    ) -> None:
        self.slot = slot
        self.endpoint = endpoint
        self.memory = memory
        self.offset_bytes = offset_bytes
        self.attempts = 1

    def issue(self) -> None:
        """Send the request to the endpoint."""
        self.endpoint.read(self.memory, self.offset_bytes, self)


class Strategy(Protocol):
    """What a mode does with the disk."""

    # Whether chunks are overwritten whose records the pass did not forget when it began.
    needs_intent: bool
    # Whether each slot needs a second buffer.
    compares: bool
    # Whether the target is read first, and the source only where that is needed.
    verifies: bool

    def tasks(self) -> Iterator[Task]:
        """The tasks in ascending order of offset."""
        ...

    def advance(self, engine: "Engine", slot: Slot) -> None:
        """Called when no request of the slot is outstanding: issue its next ones, or finish it."""
        ...


class Engine:
    """Runs one strategy over a source and a target. Single-threaded; not reusable."""

    def __init__(
        self,
        *,
        source: Endpoint | None,
        target: Endpoint,
        chunk_map: ChunkMap,
        control: Control,
        meter: Meter,
        tuning: Tuning,
        now: Callable[[], float],
        report: Callable[[], None],
    ) -> None:
        self.source = source
        self.target = target
        self.map = chunk_map
        self.meter = meter
        self._control = control
        self._tuning = tuning
        self._now = now
        self._report = report
        self._endpoints = [target] if source is None else [source, target]
        self._loop = PollLoop(self._endpoints, control)
        self._feeder = target
        self._others: list[Endpoint] = []
        self._depth = Depth(tuning.near_depth, tuning.depth, chunk_map.header.chunk_bytes, now())
        self._fed_bytes = 0
        self.checkpoints = Checkpoints(
            target,
            chunk_map,
            meter,
            interval_seconds=tuning.checkpoint_seconds,
            interval_bytes=tuning.checkpoint_bytes,
            in_flight_bytes=tuning.depth * chunk_map.header.chunk_bytes,
            now=now,
        )
        self._free: list[Slot] = []
        self._active: set[Slot] = set()
        self._report_at = now()
        self._chores_at = now()
        self._delayed: list[tuple[float, _Read]] = []
        self._ready: list[Slot] = []
        self._held: Task | None = None
        self._exhausted = False
        self._intent_stop = 0

    # -- what strategies call

    def read(self, slot: Slot, endpoint: Endpoint, area: Range, memory: memoryview) -> None:
        """Read an area of the slot's chunk into `memory`, at the area's offset within the chunk."""
        offset, length = area
        slot.pending += 1
        _Read(slot, endpoint, _part(slot, area, memory), offset).issue()
        if endpoint is self._feeder:
            slot.fed_bytes += length
            self._fed_bytes += length
            self.meter.fed_bytes += length
        if endpoint is self.source:
            self._control.limit.spend(length)
            self.meter.read_bytes += length

    def write(self, slot: Slot, area: Range) -> None:
        """Write an area of the slot's chunk from the slot's memory."""
        slot.pending += 1
        self.target.write(_part(slot, area, slot.memory), area.offset_bytes, slot)
        self.meter.written_bytes += area.length_bytes
        self.checkpoints.unflushed_bytes += area.length_bytes

    def zero(self, slot: Slot, area: Range) -> None:
        """Make an area of the target read as zeroes."""
        slot.pending += 1
        self.target.zero(area.offset_bytes, area.length_bytes, slot)

    def nothing_to_wait_for(self, slot: Slot) -> None:
        """Have `advance` called again without a completion: this phase needs no request."""
        self._ready.append(slot)

    def finish(self, slot: Slot, first: int, count: int) -> None:
        """End the slot's task; the next checkpoint records its kind and digest."""
        self.checkpoints.complete(slot.task, (first, count, slot.kind, slot.digest))
        self.release(slot)

    def release(self, slot: Slot) -> None:
        """End the slot's task and free the slot, without a record in the map."""
        if slot.task is not None:
            self.meter.current = Range(slot.task.offset_bytes, slot.task.length_bytes)
        slot.task = None
        self._fed_bytes -= slot.fed_bytes
        slot.fed_bytes = 0
        self._active.discard(slot)
        self._free.append(slot)

    # -- the loop

    def run(self, strategy: Strategy) -> None:
        """Run to the end; everything written is flushed and recorded when it returns.

        Raises TransferFailure. Chunks that completed before the failure are flushed and recorded,
        unless the target failed.
        """
        self._make_slots(strategy)
        # The feeder is the endpoint that is read first; its bytes in flight are what is adapted.
        if self.source is not None and not strategy.verifies:
            self._feeder = self.source
        self._others = [endpoint for endpoint in self._endpoints if endpoint is not self._feeder]
        tasks = strategy.tasks()
        if strategy.needs_intent:
            self._intent_stop = _INTENT_CHUNKS
            self.map.checkpoint(intent=(0, self._intent_stop))
        try:
            while True:
                self._handle_completions(strategy)
                if self._control.stop is not None:
                    raise self._control.stop
                self._fill(strategy, tasks)
                now = self._now()
                idle = not self._active
                if (idle or now >= self._chores_at) and self._do_chores(now):
                    return
                self._wait(now)
        except TransferFailure as failure:
            self.checkpoints.save(failure)
            raise

    def _do_chores(self, now: float) -> bool:
        """Do what is due from time to time; returns whether the pass is at its end."""
        self._chores_at = now + _CHORES_SECONDS
        if self._delayed:
            self._reissue_due(now)
        checkpoints = self.checkpoints
        if not checkpoints.running and (checkpoints.is_due(now) or self._waits_for_intent()):
            checkpoints.begin()
        if now >= self._report_at:
            self._report_at = now + self._tuning.report_seconds
            self._report()
        if now >= self._depth.review_at:
            self._depth.review(now)
        if self._exhausted and not self._active and not checkpoints.running:
            if not checkpoints.completed:
                return True
            checkpoints.begin()
        return False

    def _make_slots(self, strategy: Strategy) -> None:
        chunk = self.map.header.chunk_bytes
        # Page-aligned, so that the kernel copies whole pages; huge pages need fewer TLB entries.
        sides = 2 if strategy.compares else 1
        # Private: shared memory gets huge pages only on hosts that are configured for it.
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        area = mmap.mmap(-1, self._tuning.depth * sides * chunk, flags=private)
        # A kernel without huge pages refuses; normal pages work as well.
        with contextlib.suppress(OSError):
            area.madvise(mmap.MADV_HUGEPAGE)
        memory = memoryview(area)
        for number in range(self._tuning.depth):
            at = number * sides * chunk
            other = memory[at + chunk : at + 2 * chunk] if strategy.compares else None
            self._free.append(Slot(memory[at : at + chunk], other))

    def _fill(self, strategy: Strategy, tasks: Iterator[Task]) -> None:
        while self._has_room():
            if self._control.limit.wait_seconds() > 0:
                return
            if self.checkpoints.are_full():
                return
            task = self._held or next(tasks, None)
            self._held = None
            if task is None:
                self._exhausted = True
                return
            if strategy.needs_intent and _last_chunk(task) >= self._intent_stop:
                self._held = task
                return
            slot = self._free.pop()
            self._active.add(slot)
            slot.reset(task)
            strategy.advance(self, slot)

    def _has_room(self) -> bool:
        return not (self._is_full() or self._exhausted or self._control.paused)

    def _is_full(self) -> bool:
        return not self._free or self._fed_bytes >= self._depth.bytes

    def _wait(self, now: float) -> None:
        """Wait for an event; add to `starved_seconds` if only the feeder had work to do."""
        timeout = self._timeout(now)
        starving = self._is_full() and not any(other.is_busy for other in self._others)
        self._loop.wait(timeout)
        if starving:
            self._depth.starved_seconds += self._now() - now

    def _timeout(self, now: float) -> float:
        if self._ready:
            return 0.0
        timeout = max(self._report_at - now, 0.0)
        if self._delayed:
            timeout = min(timeout, max(min(at for at, _ in self._delayed) - now, 0.0))
        if self._has_room():
            wait = self._control.limit.wait_seconds()
            timeout = min(timeout, wait) if wait else timeout
        return timeout

    def _handle_completions(self, strategy: Strategy) -> None:
        while self._ready:
            strategy.advance(self, self._ready.pop())
        for endpoint in self._endpoints:
            completions = endpoint.completions
            while completions:
                token, errnum = completions.popleft()
                if isinstance(token, _Read):
                    if errnum:
                        self._retry(token, errnum)
                        continue
                    slot = token.slot
                elif errnum:
                    raise endpoint.failure(errnum)
                elif isinstance(token, Slot):
                    slot = token
                else:
                    self._flushed(strategy)
                    continue
                slot.pending -= 1
                if not slot.pending:
                    strategy.advance(self, slot)

    def _retry(self, read: _Read, errnum: int) -> None:
        endpoint = read.endpoint
        transient = errnum == errno.EIO and not endpoint.is_lost()
        if not transient or read.attempts >= self._tuning.read_attempts:
            raise endpoint.failure(errnum, writing=False)
        delay = self._tuning.retry_seconds * 2 ** (read.attempts - 1)
        read.attempts += 1
        self._delayed.append((self._now() + delay, read))

    def _reissue_due(self, now: float) -> None:
        due = [read for at, read in self._delayed if at <= now]
        self._delayed = [entry for entry in self._delayed if entry[0] > now]
        for read in due:
            read.issue()

    # -- the window of a re-sync

    def _waits_for_intent(self) -> bool:
        return self._held is not None and not self._active

    def _flushed(self, strategy: Strategy) -> None:
        if not strategy.needs_intent:
            self.checkpoints.end(None)
            return
        busy = [_first_chunk(slot.task) for slot in self._active if slot.task is not None]
        busy += [first for first, _, _, _ in self.checkpoints.completed]
        busy += [_first_chunk(self._held)] if self._held is not None else []
        low = min(busy, default=self._intent_stop)
        self._intent_stop = max(self._intent_stop, low + _INTENT_CHUNKS)
        self.checkpoints.end((low, self._intent_stop))


def _part(slot: Slot, area: Range, memory: memoryview) -> memoryview:
    task = slot.task
    if not isinstance(task, ChunkTask):
        raise TypeError("only chunks have bytes")
    start = area.offset_bytes - task.offset_bytes
    return memory[start : start + area.length_bytes]


def _first_chunk(task: Task) -> int:
    return task.index if isinstance(task, ChunkTask) else task.first


def _last_chunk(task: Task) -> int:
    return task.index if isinstance(task, ChunkTask) else task.first + task.count - 1
