"""Progress as lines: one per change, for logs, pipes and terminals without a cursor."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TextIO

from cli.show.names import PASS_STAGES, stage_name, state_name, vm_label
from cli.show.outcome import outcome
from cli.show.units import duration, rate, size
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

__all__ = ["PlainDisplay"]

# Often enough to see that it moves, rarely enough to read a night's log.
_PERCENT_STEP = 10
_NAMELESS = frozenset({pb.STATE_RUNNING, pb.STATE_WAITING, pb.STATE_UNSPECIFIED})


@dataclass
class _Shown:
    """What was already printed about one migration."""

    stage: pb.Stage.ValueType = pb.STAGE_UNSPECIFIED
    state: pb.State.ValueType = pb.STATE_UNSPECIFIED
    activity: str = ""
    step: int | None = None
    passes: set[int] = field(default_factory=set)
    error: str = ""
    finalize: bool = False


class PlainDisplay:
    """Writes ``14:03:12 web01: base_copy 60 %, 84.1 MB/s`` when something changed."""

    def __init__(self, out: TextIO, now: Callable[[], datetime] = datetime.now) -> None:
        self._out = out
        self._now = now
        self._shown: dict[str, _Shown] = {}

    def show(self, migration: pb.Migration) -> None:
        """Print what is new in this snapshot; nothing when there is nothing new."""
        shown = self._shown.get(migration.id)
        if shown is None:
            # What was done before anybody watched is not new.
            ended = {each.number for each in migration.passes if each.HasField("end_time")}
            shown = self._shown[migration.id] = _Shown(passes=ended)
        label = vm_label(migration)
        for change in _changes(migration, shown):
            self.note(f"{label}: {change}")

    def note(self, text: str) -> None:
        """One line with the time."""
        print(f"{self._now():%H:%M:%S} {text}", file=self._out, flush=True)

    def end(self, migrations: list[pb.Migration]) -> None:
        """How it ended, one line per VM."""
        for migration in migrations:
            print(outcome(migration), file=self._out, flush=True)


def _changes(migration: pb.Migration, shown: _Shown) -> list[str]:
    found: list[str] = []
    if _is_new(migration, shown):
        found.append(_position(migration))
    shown.stage, shown.state, shown.activity = migration.stage, migration.state, migration.activity
    if (migration.finalize_requested or migration.finalize_now_requested) and not shown.finalize:
        shown.finalize = True
        found.append("finalize requested")
    found += _progress(migration, shown)
    for done in migration.passes:
        if done.HasField("end_time") and done.number not in shown.passes:
            shown.passes.add(done.number)
            found.append(_pass(done))
    error = migration.error.message
    if error and error != shown.error and migration.state != pb.STATE_FAILED:
        found.append(f"{error.rstrip('.')}; trying again")
    shown.error = error
    return found


def _is_new(migration: pb.Migration, shown: _Shown) -> bool:
    """Whether stage and state are worth a line.

    A delta stage alternates between running and waiting for as long as it lasts: printed are its
    passes when they are done, and when the next one is due.
    """
    if migration.stage != shown.stage:
        return True
    if migration.state == pb.STATE_WAITING:
        return migration.activity not in {"", shown.activity}
    if migration.state == pb.STATE_RUNNING:
        return shown.state not in {pb.STATE_RUNNING, pb.STATE_WAITING}
    return migration.state != shown.state


def _position(migration: pb.Migration) -> str:
    stage, state = stage_name(migration.stage), state_name(migration.state)
    if migration.state in {pb.STATE_DONE, pb.STATE_QUEUED}:
        return state
    text = stage if migration.state in _NAMELESS else f"{stage} {state}"
    if migration.state == pb.STATE_FAILED:
        return f"{text}: {migration.error.message}"
    return f"{text}: {migration.activity}" if migration.activity else text


def _progress(migration: pb.Migration, shown: _Shown) -> list[str]:
    total = sum(disk.total_bytes for disk in migration.disks)
    if not total or migration.state != pb.STATE_RUNNING or migration.stage not in PASS_STAGES:
        return []
    percent = 100 * sum(disk.done_bytes for disk in migration.disks) / total
    step = int(percent // _PERCENT_STEP)
    before, shown.step = shown.step, step
    # The first numbers seen of a pass may still be those of the pass before.
    if before is None or step <= before:
        return []
    speed = rate(migration.transfer_rate_bytes_per_second)
    text = f"{stage_name(migration.stage)} {step * _PERCENT_STEP} % of {size(total)}"
    return [f"{text}, {speed}" if speed else text]


def _pass(done: pb.Pass) -> str:
    seconds = done.end_time.ToNanoseconds() / 1e9 - done.start_time.ToNanoseconds() / 1e9
    name = f"delta pass {done.number}" if done.kind == "delta" else f"{done.kind} pass"
    return (
        f"{name} done in {duration(seconds)}: {size(done.changed_bytes)} changed, "
        f"{size(done.read_bytes)} read, {size(done.written_bytes)} written"
    )
