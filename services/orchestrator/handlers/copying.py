"""The full copy and the delta passes, while the machine runs."""

from datetime import datetime, timedelta

from services.orchestrator.database import tables
from services.orchestrator.database.tables import PassKind
from services.orchestrator.stages import Stage
from services.orchestrator.tick import Advance, Outcome, Tick, Wait
from services.orchestrator.work.debts import settle_snapshots
from services.orchestrator.work.passes import copy_pass, open_pass, take_snapshot

__all__ = ["base_copy", "base_snapshot", "delta"]


def base_snapshot(tick: Tick) -> Outcome:
    """Take the snapshot that the full copy reads."""
    take_snapshot(tick, PassKind.BASE)
    return Advance(Stage.BASE_COPY)


def base_copy(tick: Tick) -> Outcome:
    """Copy every disk in full, unless the base copy is durable already."""
    current = open_pass(tick.loaded)
    if current is not None:
        copy_pass(tick, take_snapshot(tick, PassKind.BASE))
    settle_snapshots(tick)
    with tick.change() as (_, migration):
        migration.admitted = False
    return Advance(Stage.DELTA)


def delta(tick: Tick) -> Outcome:
    """Run the pass that is due, or wait for it, or begin the cutover."""
    migration = tick.fresh()
    if open_pass(migration) is not None:
        return _run_pass(tick)
    settle_snapshots(tick)
    now = tick.store.clock()
    if _cutover_due(tick, migration, now):
        return Advance(_cutover_stage(tick))
    due = _next_pass(tick, migration, now)
    if due <= now:
        return _run_pass(tick)
    activity = f"delta pass {migration.pass_number + 1} starts at {due.astimezone():%H:%M:%S}"
    return Wait((due - now).total_seconds(), activity)


def _run_pass(tick: Tick) -> Outcome:
    copy_pass(tick, take_snapshot(tick, PassKind.DELTA))
    return Wait(0, "")


def _cutover_due(tick: Tick, migration: tables.Migration, now: datetime) -> bool:
    if migration.finalize_now_requested:
        return True
    # The cutover waits for one delta pass that began after the request (or in the finalize window),
    # so that the final pass, which is downtime, is short even after a long base copy or a pause.
    asked, at = migration.finalize_time, tick.spec.finalize_at
    if migration.finalize_requested and asked is not None:
        return _delta_since(migration, asked)
    if at is None or now < at:
        return False
    return _delta_since(migration, at - timedelta(seconds=tick.spec.finalize_window_seconds))


def _delta_since(migration: tables.Migration, begin: datetime) -> bool:
    return any(
        p.kind == PassKind.DELTA and p.end_time is not None and p.start_time >= begin
        for p in migration.passes
    )


def _next_pass(tick: Tick, migration: tables.Migration, now: datetime) -> datetime:
    if migration.finalize_requested:
        return now
    last = max(p.end_time for p in migration.passes if p.end_time)
    interval = tick.spec.delta_interval_seconds
    at = tick.spec.finalize_at
    if at is not None and now >= at - timedelta(seconds=tick.spec.finalize_window_seconds):
        interval = min(interval, tick.spec.finalize_delta_interval_seconds)
    due = last + timedelta(seconds=interval)
    return min(due, at) if at is not None else due


def _cutover_stage(tick: Tick) -> Stage:
    manual = tick.spec.shutdown_mode == "manual"
    return Stage.AWAITING_SHUTDOWN_ACTION if manual else Stage.FINAL_SYNC
