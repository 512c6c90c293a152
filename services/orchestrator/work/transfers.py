"""Runs a set of transfers on the storage host and writes their progress to the database."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy import select

from services.kit.failure import ReportedError, ServiceError
from services.orchestrator.database import tables
from services.orchestrator.errors import TransferCancelled
from services.orchestrator.ports.disk import (
    TransferMode,
    TransferOrder,
    TransferSnapshot,
    WorkState,
)
from services.orchestrator.ports.reasons import Reason
from services.orchestrator.tick import Interrupted, Tick

__all__ = ["next_transfer_id", "run_transfers", "stop_transfers", "transfer_id"]

_POLL_SECONDS = 0.5
_SUFFIXES = {TransferMode.VERIFY_TARGET: "-verify", TransferMode.REPAIR: "-repair"}
_Shown = tuple[int, int, int, int]


def run_transfers(tick: Tick, orders: Sequence[TransferOrder]) -> list[TransferSnapshot]:
    """Run `orders`, at most `parallel_disks` at once; returns their last snapshots in that order.

    After a failure no transfer is started, those that run are waited for, so that their work is
    kept, and then the failure is raised as a ServiceError with the transfer's reason. Raises
    Interrupted on a request, after cancelling the transfers, and when this process stops; then the
    transfers continue.
    """
    waiting = list(orders)
    running: dict[int, TransferOrder] = {}
    ended: dict[int, TransferSnapshot] = {}
    failed = False
    while running or (waiting and not failed):
        while waiting and not failed and len(running) < tick.spec.parallel_disks:
            order = _start(tick, waiting.pop(0))
            running[order.disk_key] = order
        now = {key: tick.agents.disk.get_transfer(o.transfer_id) for key, o in running.items()}
        _show(tick, now)
        for key, snapshot in now.items():
            if snapshot.state.ended:
                del running[key]
                ended[key] = snapshot
                failed = failed or snapshot.state is not WorkState.SUCCEEDED
        if running:
            _pause(tick, running)
    # A difference is raised before other failures, so that the repair it requires is not delayed.
    for snapshot in sorted(ended.values(), key=lambda each: not _differs(each)):
        if snapshot.state is not WorkState.SUCCEEDED:
            raise _error(snapshot)
    return [ended[order.disk_key] for order in orders]


def _start(tick: Tick, order: TransferOrder) -> TransferOrder:
    """Start a transfer, under a new id if it was cancelled before, by a pause for example."""
    while True:
        try:
            tick.agents.disk.start_transfer(order)
        except ServiceError as exc:
            if exc.reason != Reason.TRANSFER_ENDED:
                raise
            order = _rename(tick, order)
        else:
            return order


def stop_transfers(tick: Tick, transfer_ids: Sequence[str]) -> None:
    """Cancel transfers that an earlier tick may have left running. Unknown ids are ignored."""
    for id_ in transfer_ids:
        try:
            tick.agents.disk.cancel_transfer(id_, tick.loaded.epoch)
        except ServiceError as exc:
            if exc.reason != Reason.TRANSFER_NOT_FOUND:
                raise


def _pause(tick: Tick, running: Mapping[int, TransferOrder]) -> None:
    # A pause during the cutover would make the downtime longer.
    heed_pause = tick.loaded.shutdown_time is None
    try:
        tick.pause(_POLL_SECONDS, heed_pause=heed_pause)
    except Interrupted:
        if not tick.signals.stopping:
            for order in running.values():
                tick.agents.disk.cancel_transfer(order.transfer_id, order.epoch)
        raise


def _rename(tick: Tick, order: TransferOrder) -> TransferOrder:
    """Give the transfer a new id: one that was cancelled cannot be started again."""
    with tick.change() as (session, _):
        part = session.get_one(tables.PassDisk, (tick.id, order.pass_number, order.disk_key))
        part.transfer_id = next_transfer_id(part.transfer_id)
        return replace(order, transfer_id=transfer_id(part.transfer_id, order.mode))


def transfer_id(part_id: str, mode: TransferMode) -> str:
    """The id of the transfer that runs a disk's part of a pass, `part_id`, in this mode.

    A verification or repair follows the transfer that copied, and needs a different id.
    """
    return part_id + _SUFFIXES.get(mode, "")


def next_transfer_id(part_id: str) -> str:
    """The id of the next attempt: ``name``, ``name.2``, ``name.3``."""
    base, _, count = part_id.partition(".")
    return f"{base}.{int(count or 1) + 1}"


def _error(snapshot: TransferSnapshot) -> ServiceError:
    known = {"transfer_id": snapshot.transfer_id}
    if snapshot.failure is None:
        text = f"transfer {snapshot.transfer_id} has {snapshot.state}"
        if snapshot.state is WorkState.CANCELLED:
            text = f"transfer {snapshot.transfer_id} was cancelled"
        return TransferCancelled(text, metadata=known)
    metadata = {**snapshot.failure.metadata, **known}
    return ReportedError(replace(snapshot.failure, metadata=metadata))


def _differs(snapshot: TransferSnapshot) -> bool:
    return snapshot.failure is not None and snapshot.failure.reason == Reason.CONTENT_MISMATCH


def _show(tick: Tick, snapshots: Mapping[int, TransferSnapshot]) -> None:
    """Write the transfers' progress, by disk key, to the database if it has changed."""
    with tick.store.reading() as session:
        query = select(tables.Disk).where(tables.Disk.migration_id == tick.id)
        disks = session.scalars(query).all()
        before = {d.key: _shown(d) for d in disks}
        capacity = {d.key: d.capacity_bytes for d in disks}
    after = {key: _progress(snapshot, capacity[key]) for key, snapshot in snapshots.items()}
    if all(before[key] == shown for key, shown in after.items()):
        return
    with tick.change() as (_, migration):
        for disk in migration.disks:
            if disk.key in after:
                disk.total_bytes, disk.done_bytes, disk.rate, disk.eta_seconds = after[disk.key]


def _shown(disk: tables.Disk) -> _Shown:
    return (disk.total_bytes, disk.done_bytes, disk.rate, disk.eta_seconds)


def _progress(snapshot: TransferSnapshot, capacity_bytes: int) -> _Shown:
    """Total bytes, bytes done, rate and remaining seconds, as shown to operators."""
    if snapshot.state is WorkState.SUCCEEDED:
        total = snapshot.total_bytes or capacity_bytes
        return (total, total, 0, 0)
    rate = snapshot.rate_bytes_per_second if snapshot.state is WorkState.RUNNING else 0
    total = snapshot.total_bytes or capacity_bytes
    return (total, snapshot.done_bytes, rate, snapshot.eta_seconds)
