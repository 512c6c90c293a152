"""What a pass has done so far, and how fast."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Self

from services.disk_agent.engine.ranges import Range

# The rate is an average over this time: long enough to be steady, short enough to follow changes.
_WINDOW_SECONDS = 10.0


@dataclass(frozen=True)
class Progress:
    """A snapshot of a pass's counters, all in bytes unless named otherwise.

    `total_bytes` is the length of the disk, or the sum of the pass's ranges. `done_bytes` is the
    part of it that is finished, whether copied, zero, skipped or resumed. `offset_bytes` and
    `length_bytes` are those of the area that was finished last.
    """

    total_bytes: int = 0
    done_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    zero_bytes: int = 0
    skipped_bytes: int = 0
    resumed_bytes: int = 0
    offset_bytes: int = 0
    length_bytes: int = 0
    bytes_per_second: float = 0.0
    eta_seconds: float | None = None
    verified_chunks: int = 0
    verified_bytes: int = 0
    unverified_chunks: int = 0
    unverified_bytes: int = 0
    repaired_chunks: int = 0
    repaired_bytes: int = 0
    checkpoints: int = 0
    source_reopened: int = 0

    def to_wire(self) -> dict[str, object]:
        """The counters as a JSON object."""
        return asdict(self)

    @classmethod
    def from_wire(cls, wire: Mapping[str, object]) -> Self:
        """Rebuild from `to_wire`'s object. Counters of another version are left out."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in wire.items() if name in known})  # type: ignore[arg-type]


class Meter:
    """The mutable counters behind `Progress`."""

    def __init__(self, total_bytes: int, now: Callable[[], float]) -> None:
        self._now = now
        self.total_bytes = total_bytes
        self.copied_bytes = 0
        self.read_bytes = 0
        # Read from the endpoint that is read first: the source, or a target that is verified.
        self.fed_bytes = 0
        self.written_bytes = 0
        self.zero_bytes = 0
        self.skipped_bytes = 0
        self.resumed_bytes = 0
        self.current = Range(0, 0)
        self.verified_chunks = 0
        self.verified_bytes = 0
        self.unverified_chunks = 0
        self.unverified_bytes = 0
        self.repaired_chunks = 0
        self.repaired_bytes = 0
        self.checkpoints = 0
        self.source_reopened = 0
        # How far the pass was planned: resumed bytes before this offset are counted already.
        self._planned_bytes = 0
        self._samples: deque[tuple[float, int, int]] = deque([(now(), 0, 0)])

    def begin_run(self, *, resumes: bool) -> None:
        """Begin a pass, or begin it again: one that cannot resume counts from zero."""
        if not resumes:
            self.copied_bytes = self.zero_bytes = self.skipped_bytes = 0
            self.verified_chunks = self.verified_bytes = 0
            self.unverified_chunks = self.unverified_bytes = 0

    def planned(self, end_bytes: int, done_bytes: int) -> None:
        """Note that the pass was planned up to `end_bytes`, the last `done_bytes` of it resumed."""
        beyond = end_bytes - self._planned_bytes
        if beyond > 0:
            self._planned_bytes = end_bytes
            self.resumed_bytes += min(done_bytes, beyond)

    def verified(self, length_bytes: int, chunks: int = 1) -> None:
        """Count chunks that were compared."""
        self.verified_chunks += chunks
        self.verified_bytes += length_bytes

    def unverified(self, length_bytes: int) -> None:
        """Count a chunk with nothing to compare it with."""
        self.unverified_chunks += 1
        self.unverified_bytes += length_bytes

    def repaired(self, length_bytes: int) -> None:
        """Count a chunk of the target that was written again."""
        self.repaired_chunks += 1
        self.repaired_bytes += length_bytes

    def snapshot(self) -> Progress:
        """The counters now, with the rate of reading over the last seconds."""
        now = self._now()
        # Without resumed bytes: an earlier attempt copied them.
        fresh = self.copied_bytes + self.zero_bytes + self.skipped_bytes
        self._samples.append((now, fresh, self.fed_bytes))
        while len(self._samples) > 2 and now - self._samples[0][0] > _WINDOW_SECONDS:
            self._samples.popleft()
        since, fresh_then, fed_then = self._samples[0]
        seconds = max(now - since, 1e-3)
        done = fresh + self.resumed_bytes
        pace = (fresh - fresh_then) / seconds
        left = max(self.total_bytes - done, 0)
        return Progress(
            total_bytes=self.total_bytes,
            done_bytes=min(done, self.total_bytes),
            read_bytes=self.read_bytes,
            written_bytes=self.written_bytes,
            zero_bytes=self.zero_bytes,
            skipped_bytes=self.skipped_bytes,
            resumed_bytes=self.resumed_bytes,
            offset_bytes=self.current.offset_bytes,
            length_bytes=self.current.length_bytes,
            bytes_per_second=(self.fed_bytes - fed_then) / seconds,
            eta_seconds=left / pace if pace > 0 else None,
            verified_chunks=self.verified_chunks,
            verified_bytes=self.verified_bytes,
            unverified_chunks=self.unverified_chunks,
            unverified_bytes=self.unverified_bytes,
            repaired_chunks=self.repaired_chunks,
            repaired_bytes=self.repaired_bytes,
            checkpoints=self.checkpoints,
            source_reopened=self.source_reopened,
        )
