"""Checkpoints: the target is flushed, and only then are completed chunks recorded in the map."""

import errno
import random
from collections.abc import Callable

import nbd

from services.disk_agent.chunk_map.chunk_map import ChunkMap, Kind
from services.disk_agent.engine.endpoint import Endpoint
from services.disk_agent.engine.plan import ChunkTask, Task
from services.disk_agent.engine.progress import Meter
from services.disk_agent.transfer_failures import TargetFailed, TargetFull, TransferFailure

# Dirty pages of the map are kept in memory until a checkpoint; this is 16 MiB of them.
_DIRTY_PAGES = 4096
_SAMPLES = 8


class FlushToken:
    """Marks a checkpoint's flush among the completions of an endpoint."""


class Checkpoints:
    """Holds the records of completed chunks until these are durable; copying continues meanwhile.

    A checkpoint is due after `interval_seconds`, or before the bytes written since the last one and
    the `in_flight_bytes` exceed `interval_bytes`: a crash loses both.
    """

    def __init__(
        self,
        target: Endpoint,
        chunk_map: ChunkMap,
        meter: Meter,
        *,
        interval_seconds: float,
        interval_bytes: int,
        in_flight_bytes: int,
        now: Callable[[], float],
    ) -> None:
        self._target = target
        self._map = chunk_map
        self._meter = meter
        self._interval_seconds = interval_seconds
        # An eighth is kept for what is written while the flush runs.
        self._limit_bytes = max(interval_bytes * 7 // 8 - in_flight_bytes, 1)
        self._now = now
        self._began = now()
        # (first chunk, count, kind, digest)
        self.completed: list[tuple[int, int, Kind, bytes]] = []
        self._flushing: list[tuple[int, int, Kind, bytes]] | None = None
        self.unflushed_bytes = 0
        # Chunks chosen at random, with equal chances, from those that the pass copied whole. The
        # other parts of a chunk copied in part may have been damaged before; verification finds it.
        self.sampled: list[int] = []
        self._with_data = 0

    @property
    def running(self) -> bool:
        """Whether a flush is under way."""
        return self._flushing is not None

    def complete(self, task: Task | None, record: tuple[int, int, Kind, bytes]) -> None:
        """Keep the record of a chunk whose writes completed for the next checkpoint."""
        self.completed.append(record)
        whole = isinstance(task, ChunkTask) and task.asked_bytes == task.length_bytes
        if whole and record[2] is Kind.DATA:
            self._sample(record[0])

    def are_full(self) -> bool:
        """Whether a checkpoint must be made before more chunks may complete."""
        return self._map.dirty_pages + len(self.completed) >= _DIRTY_PAGES

    def is_due(self, now: float) -> bool:
        """Whether a checkpoint is due."""
        return bool(self.completed) and (
            self.unflushed_bytes >= self._limit_bytes
            or now - self._began >= self._interval_seconds
            or self.are_full()
        )

    def begin(self) -> None:
        """Flush the target. A flush covers the writes that completed before it, and no others."""
        self._flushing, self.completed = self.completed, []
        self.unflushed_bytes = 0
        self._began = self._now()
        self._target.flush(FlushToken())

    def end(self, intent: tuple[int, int] | None) -> None:
        """After the flush, record the chunks it covers. `intent`: see `ChunkMap.checkpoint`."""
        records, self._flushing = self._flushing or [], None
        self._record(records, intent)

    def save(self, failure: TransferFailure) -> None:
        """Flush the target and record the completed chunks before a pass ends with `failure`.

        Raises TargetFailed or TargetFull when that fails too.
        """
        # The kernel reports a failed sync once and drops what it could not write (fsync(2)); QEMU
        # may also have made that sync within a write. So after a failure of the target a flush that
        # succeeds is no evidence that anything is durable.
        if self._target.is_lost() or isinstance(failure, TargetFailed | TargetFull):
            return
        # Taken before the flush: it does not cover writes that complete while it runs.
        records = (self._flushing or []) + self.completed
        try:
            self._target.handle.flush()
        except nbd.Error as error:
            raise self._target.failure(error.errnum or errno.EIO, error.string) from failure
        self._target.collect()
        # A request that failed meanwhile is a failure of the target too, as above, and so is the
        # flush of a running checkpoint.
        for _, errnum in self._target.completions:
            if errnum:
                raise self._target.failure(errnum) from failure
        self._record(records, None)
        self._flushing, self.completed = None, []

    def _record(
        self, records: list[tuple[int, int, Kind, bytes]], intent: tuple[int, int] | None
    ) -> None:
        for first, count, kind, digest in records:
            self._map.put(first, count, kind, digest)
        self._map.checkpoint(intent=intent)
        self._meter.checkpoints += 1

    def _sample(self, index: int) -> None:
        self._with_data += 1
        if len(self.sampled) < _SAMPLES:
            self.sampled.append(index)
            return
        at = random.randrange(self._with_data)  # noqa: S311 - no secret
        if at < _SAMPLES:
            self.sampled[at] = index
