"""When a checkpoint is due, and which chunks a pass may record when it fails."""

import errno
from collections import deque
from pathlib import Path

import pytest

from services.disk_agent.chunk_map.chunk_map import NO_DIGEST, ChunkMap, Kind, PassKey
from services.disk_agent.engine.checkpoints import Checkpoints
from services.disk_agent.engine.progress import Meter
from services.disk_agent.transfer_failures import SourceFailed, TargetFailed

MIB = 1 << 20


class _Target:
    """A target whose flushes succeed; the requests in `arriving` complete during a flush."""

    def __init__(self) -> None:
        self.handle = self
        self.arriving: list[tuple[object, int]] = []
        self.completions: deque[tuple[object, int]] = deque()
        self.flushes = 0

    def flush(self, token: object = None) -> None:
        self.flushes += 1

    def collect(self) -> bool:
        self.completions.extend(self.arriving)
        return bool(self.completions)

    def is_lost(self) -> bool:
        return False

    def failure(self, errnum: int, text: str = "") -> TargetFailed:
        return TargetFailed(f"errno {errnum}")


def _checkpoints(tmp_path: Path, target: _Target) -> tuple[Checkpoints, ChunkMap]:
    chunk_map = ChunkMap.create(tmp_path / "map", "vm-1/2000", 64 * MIB, MIB)
    chunk_map.begin_pass(PassKey("0", "s0", "full"))
    checkpoints = Checkpoints(
        target,  # type: ignore[arg-type]
        chunk_map,
        Meter(64 * MIB, lambda: 0.0),
        interval_seconds=5.0,
        interval_bytes=64 * MIB,
        in_flight_bytes=16 * MIB,
        now=lambda: 0.0,
    )
    return checkpoints, chunk_map


def test_a_checkpoint_is_due_before_written_and_in_flight_bytes_exceed_the_interval(
    tmp_path: Path,
) -> None:
    checkpoints, _ = _checkpoints(tmp_path, _Target())
    checkpoints.unflushed_bytes = 64 * MIB
    assert not checkpoints.is_due(now=9.0)  # there is nothing to record
    checkpoints.completed.append((0, 1, Kind.DATA, NO_DIGEST))
    checkpoints.unflushed_bytes = 39 * MIB
    assert not checkpoints.is_due(now=1.0)
    checkpoints.unflushed_bytes = 40 * MIB  # 64 less an eighth and the bytes in flight
    assert checkpoints.is_due(now=1.0)


def test_a_checkpoint_is_due_after_the_interval_even_if_little_was_written(tmp_path: Path) -> None:
    checkpoints, _ = _checkpoints(tmp_path, _Target())
    checkpoints.completed.append((0, 1, Kind.ZERO, NO_DIGEST))
    assert not checkpoints.is_due(now=4.9)
    assert checkpoints.is_due(now=5.0)


def test_completed_chunks_are_recorded_when_the_source_fails(tmp_path: Path) -> None:
    checkpoints, chunk_map = _checkpoints(tmp_path, _Target())
    checkpoints.completed.append((3, 1, Kind.ZERO, NO_DIGEST))
    checkpoints.save(SourceFailed("no more"))
    assert chunk_map.is_done(3)


def test_nothing_is_recorded_when_a_request_failed_during_the_last_flush(tmp_path: Path) -> None:
    target = _Target()
    checkpoints, chunk_map = _checkpoints(tmp_path, target)
    checkpoints.completed.append((3, 1, Kind.ZERO, NO_DIGEST))
    target.arriving.append((object(), errno.EIO))
    with pytest.raises(TargetFailed, match=str(errno.EIO)):
        checkpoints.save(SourceFailed("no more"))
    assert not chunk_map.is_done(3)


def test_nothing_is_flushed_or_recorded_after_the_target_failed(tmp_path: Path) -> None:
    target = _Target()
    checkpoints, chunk_map = _checkpoints(tmp_path, target)
    checkpoints.completed.append((3, 1, Kind.ZERO, NO_DIGEST))
    checkpoints.save(TargetFailed("EIO"))
    assert target.flushes == 0
    assert not chunk_map.is_done(3)
