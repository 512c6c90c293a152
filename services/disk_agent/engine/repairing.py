"""The mode that repairs an image: chunks are verified as by `VerifyTarget`, and those that differ
are written again from the source.

So the source must not change: its machine is off, or the source is the pass's snapshot.
"""

from collections.abc import Iterable, Iterator

from services.disk_agent.chunk_map.chunk_map import ChunkMap, Kind
from services.disk_agent.engine.copying import digest_chunk, read_source, same_bytes
from services.disk_agent.engine.core import Engine, Phase, Slot
from services.disk_agent.engine.endpoint import Extent
from services.disk_agent.engine.plan import ChunkTask, Planner, Task, ZeroTask
from services.disk_agent.engine.progress import Meter
from services.disk_agent.engine.ranges import Range
from services.disk_agent.engine.verifying import (
    Mismatches,
    is_recorded,
    read_target,
    split_zeroes,
)

_NOT_ZERO = (Kind.UNKNOWN, Kind.UNDIGESTED, Kind.DATA)


class Repair:
    """Compare the target with the map, and chunks that differ from the map with the source.

    A chunk that also differs from the source is written, read back and recorded. If it still
    differs when read back, it is added to `mismatches`: the storage does not keep what is written.
    """

    needs_intent = False
    verifies = True
    compares = True

    def __init__(
        self, runs: Iterable[Extent], chunk_map: ChunkMap, meter: Meter, mismatches: Mismatches
    ) -> None:
        self._runs = runs
        self._map = chunk_map
        self._digest_of = chunk_map.digest_of
        self._meter = meter
        self._mismatches = mismatches
        self._planner = Planner(chunk_map)

    def tasks(self) -> Iterator[Task]:
        """All chunks; a run of zeroes stays one task where the map records zeroes."""
        for task in self._planner.tasks(self._runs):
            if isinstance(task, ZeroTask):
                yield from split_zeroes(self._map, task, alone=_NOT_ZERO)
            else:
                yield task

    def advance(self, engine: Engine, slot: Slot) -> None:
        """Read the target, then the source, write, and read back; each step only if needed."""
        task = slot.task
        if isinstance(task, ZeroTask):
            self._meter.zero_bytes += task.length_bytes
            self._meter.verified(task.length_bytes, task.count)
            engine.release(slot)
        elif task is None or slot.other is None:
            return
        elif slot.phase is Phase.START:
            slot.phase = Phase.READ
            read_target(engine, slot, task, slot.other)
        elif slot.phase is Phase.READ:
            self._check(engine, slot, task, slot.other)
        elif slot.phase is Phase.COMPARE:
            self._compare(engine, slot, task, slot.other)
        elif slot.phase is Phase.WRITE:
            slot.phase = Phase.READ_BACK
            read_target(engine, slot, task, slot.other)
        else:
            self._check_written(engine, slot, task, slot.other)

    def _check(self, engine: Engine, slot: Slot, task: ChunkTask, found: memoryview) -> None:
        if is_recorded(self._map[task.index], found[: task.length_bytes], self._digest_of):
            self._done(engine, slot, task)
            return
        slot.phase = Phase.COMPARE
        area = Range(task.offset_bytes, task.length_bytes)
        whole = ChunkTask(task.index, *area, data=[area], asked_bytes=task.asked_bytes, whole=True)
        slot.task = whole
        read_source(engine, slot, whole)

    def _compare(self, engine: Engine, slot: Slot, task: ChunkTask, found: memoryview) -> None:
        digest_chunk(slot, task, self._digest_of)
        if same_bytes(slot.memory, found, task.length_bytes, self._digest_of):
            # The map's record is wrong or missing: write a new one for the next verification.
            self._record(engine, slot, task)
            return
        slot.phase = Phase.WRITE
        area = Range(task.offset_bytes, task.length_bytes)
        self._meter.repaired(task.length_bytes)
        if slot.kind is Kind.ZERO:
            engine.zero(slot, area)
        else:
            engine.write(slot, area)

    def _check_written(
        self, engine: Engine, slot: Slot, task: ChunkTask, found: memoryview
    ) -> None:
        if self._mismatches.differ(task, slot.memory, found, self._digest_of):
            self._done(engine, slot, task)
            return
        self._record(engine, slot, task)

    def _record(self, engine: Engine, slot: Slot, task: ChunkTask) -> None:
        self._meter.verified(task.length_bytes)
        self._meter.copied_bytes += task.asked_bytes
        engine.finish(slot, task.index, 1)

    def _done(self, engine: Engine, slot: Slot, task: ChunkTask) -> None:
        self._meter.verified(task.length_bytes)
        self._meter.copied_bytes += task.asked_bytes
        engine.release(slot)
