"""One pass: take a snapshot, transfer what changed, record the pass, remove the snapshot.

The order makes a crash at any point safe. The snapshot's debt is added before the snapshot exists;
a disk's change id advances only in the transaction that records the pass as durable; the snapshot
is removed before another one is taken.
"""

from collections.abc import Iterator

from sqlalchemy.orm import Session

from services.kit.failure import ServiceError
from services.orchestrator.database import tables
from services.orchestrator.database.store import add_event
from services.orchestrator.database.tables import DebtKind, PassKind
from services.orchestrator.database.views import PASSES_KEPT
from services.orchestrator.errors import ChunkMapLost, SnapshotLost, SpecMismatch
from services.orchestrator.ports.disk import TransferMode, TransferOrder
from services.orchestrator.ports.reasons import Reason
from services.orchestrator.ports.vmware import Area, Quiesce, SourceSnapshot
from services.orchestrator.tick import Tick, reset_progress
from services.orchestrator.work.debts import add_debt, settle_snapshots
from services.orchestrator.work.transfers import next_transfer_id, run_transfers, stop_transfers

__all__ = [
    "copy_pass",
    "open_pass",
    "order_for",
    "release_snapshot",
    "take_snapshot",
]

# Stored as the lost change id if the lost snapshot had none for the disk.
_NEVER_TRACKED = "untracked"


def open_pass(migration: tables.Migration) -> tables.Pass | None:
    """The pass that is not yet durable, or None."""
    return next((p for p in migration.passes if p.end_time is None), None)


def take_snapshot(tick: Tick, kind: PassKind) -> tables.Pass:
    """Begin a pass, or continue the open one; on return its snapshot exists and is recorded."""
    current = open_pass(tick.fresh())
    if current is None:
        current = _begin(tick, kind)
    elif not current.snapshot_moref:
        # An earlier attempt may have settled the debt because the snapshot could not be used.
        with tick.change() as (session, migration):
            add_debt(session, tick.store.clock, migration, DebtKind.SNAPSHOT, current.snapshot_name)
    settle_snapshots(tick, keep=current.snapshot_name)
    if current.snapshot_moref:
        return current
    tick.show(f"snapshot for pass {current.number}")
    snapshot = tick.agents.vmware.create_snapshot(
        tick.loaded.vm_moref, current.snapshot_name, Quiesce(tick.spec.snapshot_quiesce)
    )
    try:
        return _record_snapshot(tick, current.number, snapshot)
    except SpecMismatch:
        settle_snapshots(tick)
        raise


def copy_pass(tick: Tick, current: tables.Pass) -> None:
    """Run the pass's transfers, record the pass as durable and remove its snapshot.

    Raises SnapshotLost (retryable) when the snapshot is gone; the next attempt takes a new
    snapshot under a new name. Raises ChunkMapLost (retryable) when a disk's chunk map cannot be
    used; the next attempt compares that whole disk.
    """
    try:
        # Not `loaded`: recording the snapshot may have changed a disk's capacity.
        orders = [order_for(tick, current, disk) for disk in tick.fresh().disks]
        results = run_transfers(tick, orders)
    except ServiceError as exc:
        _check_snapshot(tick, current, exc)
        if exc.reason == Reason.CHUNK_MAP_UNUSABLE:
            _compare_instead(tick, current, exc)
        raise
    with tick.change() as (session, migration):
        row = session.get_one(tables.Pass, (tick.id, current.number))
        row.end_time = tick.store.clock()
        row.read_bytes = sum(r.read_bytes for r in results)
        row.written_bytes = sum(r.written_bytes for r in results)
        row.changed_bytes = sum(d.changed_bytes for d in row.disks)
        digests = {d.key: r.digest for d, r in zip(tick.loaded.disks, results, strict=True)}
        change_ids = {d.key: d.change_id for d in row.disks}
        _forget_old(session, migration, row.number)
        for disk in migration.disks:
            disk.change_id = change_ids[disk.key]
            disk.digest = digests[disk.key] or disk.digest
            disk.lost_change_id = ""
        add_event(
            session,
            tick.store.clock,
            migration,
            "pass.durable",
            f"pass {row.number} ({row.kind}) is on the target",
            number=row.number,
            kind=row.kind,
            read_bytes=row.read_bytes,
            changed_bytes=row.changed_bytes,
        )
    tick.show("removing the snapshot")
    settle_snapshots(tick)


def _forget_old(session: Session, migration: tables.Migration, number: int) -> None:
    """Delete old passes, so that a tick costs the same after thousands of passes."""
    for old in migration.passes:
        if 0 < old.number <= number - PASSES_KEPT:
            session.delete(old)
        elif old.number < number:
            for part in list(old.disks):
                session.delete(part)


def _begin(tick: Tick, kind: PassKind) -> tables.Pass:
    with tick.change() as (session, migration):
        number = migration.pass_number = migration.pass_number + 1
        name = f"v2c-{migration.id[:12]}-p{number}"
        # The debt comes first: after a crash the snapshot that vCenter made is found by this name.
        add_debt(session, tick.store.clock, migration, DebtKind.SNAPSHOT, name)
        row = tables.Pass(
            migration_id=migration.id,
            number=number,
            kind=kind,
            snapshot_name=name,
            start_time=tick.store.clock(),
        )
        session.add(row)
        reset_progress(migration)
    return row


def _record_snapshot(tick: Tick, number: int, snapshot: SourceSnapshot) -> tables.Pass:
    by_key = {d.key: d for d in snapshot.disks}
    capacities = {d.key: d.capacity_bytes for d in snapshot.disks}
    for disk in tick.loaded.disks:
        found = by_key.pop(disk.key, None)
        if found is None or found.capacity_bytes < disk.capacity_bytes:
            raise SpecMismatch(
                message=f"{disk.label} (unit {disk.unit}) of {tick.loaded.vm_name} was "
                + ("removed" if found is None else "made smaller")
                + " since the migration began",
                hint="cancel this migration and start a new one",
            )
    if by_key:
        raise SpecMismatch(
            message=f"{tick.loaded.vm_name} has {len(by_key)} new disk(s) since the migration "
            f"began: device key {', '.join(map(str, sorted(by_key)))}",
            hint="remove them from the machine, or cancel this migration and start a new one",
        )
    with tick.change() as (session, migration):
        row = session.get_one(tables.Pass, (tick.id, number))
        row.snapshot_moref = snapshot.moref
        for disk in migration.disks:
            _note_growth(tick, session, migration, disk, capacities[disk.key])
        for found in snapshot.disks:
            session.merge(
                tables.PassDisk(
                    migration_id=tick.id,
                    number=number,
                    key=found.key,
                    path=found.path,
                    change_id=found.change_id,
                    transfer_id=f"{row.snapshot_name}-{found.key}",
                    mode="",
                    ranges_id="",
                    changed_bytes=0,
                )
            )
        session.flush()
        session.expire(row, ["disks"])
        _ = row.disks
    return row


def _note_growth(
    tick: Tick,
    session: Session,
    migration: tables.Migration,
    disk: tables.Disk,
    capacity_bytes: int,
) -> None:
    if capacity_bytes == disk.capacity_bytes:
        return
    add_event(
        session,
        tick.store.clock,
        migration,
        "disk.grown",
        f"{disk.label} grew from {disk.capacity_bytes} to {capacity_bytes} bytes; the image is "
        "resized to match",
        unit=disk.unit,
        capacity_bytes=capacity_bytes,
    )
    disk.capacity_bytes = capacity_bytes


def _grow_image(tick: Tick, disk: tables.Disk) -> None:
    """Resize the image to the disk's capacity, before this pass writes to it."""
    if disk.image_bytes == disk.capacity_bytes:
        return
    tick.agents.disk.resize_image(disk.image_path, disk.capacity_bytes)
    with tick.change() as (session, _):
        session.get_one(tables.Disk, (tick.id, disk.key)).image_bytes = disk.capacity_bytes


def order_for(tick: Tick, current: tables.Pass, disk: tables.Disk) -> TransferOrder:
    """The transfer of this disk in this pass; its mode is decided once and recorded."""
    part = next(p for p in current.disks if p.key == disk.key)
    if not part.mode:
        _grow_image(tick, disk)
        part = _decide_mode(tick, current, disk, part)
    return TransferOrder(
        transfer_id=part.transfer_id,
        mode=TransferMode(part.mode),
        disk_id=f"{tick.loaded.vm_moref}/{disk.key}",
        disk_key=disk.key,
        capacity_bytes=disk.capacity_bytes,
        target_path=disk.image_path,
        pass_number=current.number,
        epoch=tick.loaded.epoch,
        vm_moref=tick.loaded.vm_moref,
        snapshot_moref=current.snapshot_moref,
        source_path=part.path,
        thumbprint=str(tick.loaded.source.get("thumbprint", "")),
        ranges_id=part.ranges_id,
        queue_depth=tick.spec.readers or 0,
    )


def _decide_mode(
    tick: Tick, current: tables.Pass, disk: tables.Disk, part: tables.PassDisk
) -> tables.PassDisk:
    mode, ranges_id, changed = TransferMode.FULL, "", disk.capacity_bytes
    if current.kind != PassKind.BASE:
        mode, ranges_id, changed = _delta_mode(tick, current, disk, part, disk.change_id)
    elif disk.lost_change_id:
        # The full copy began with a snapshot that is gone. It continues: chunks not copied yet, and
        # those that changed since that snapshot.
        mode, ranges_id, _ = _delta_mode(tick, current, disk, part, disk.lost_change_id)
        mode = TransferMode.FULL if mode is TransferMode.RANGES else mode
    with tick.change() as (session, _):
        row = session.get_one(tables.PassDisk, (tick.id, current.number, disk.key))
        row.mode, row.ranges_id, row.changed_bytes = mode.value, ranges_id, changed
    return row


def _delta_mode(
    tick: Tick, current: tables.Pass, disk: tables.Disk, part: tables.PassDisk, since: str
) -> tuple[TransferMode, str, int]:
    reason = _untracked(since, part.change_id)
    if not reason:
        ranges_id = f"{part.transfer_id}-ranges"
        try:
            areas: Iterator[Area] = tick.agents.vmware.changed_areas(
                tick.loaded.vm_moref, current.snapshot_moref, disk.key, since
            )
            changed = tick.agents.disk.put_ranges(ranges_id, disk.capacity_bytes, areas)
            return TransferMode.RANGES, ranges_id, changed
        except ServiceError as exc:
            if exc.reason != Reason.CBT_RESET:
                raise
            reason = exc.message
    tick.event(
        "cbt.reset",
        f"{disk.label}: changed block tracking cannot be trusted ({reason}); the whole disk is "
        "compared and only what differs is written",
        unit=disk.unit,
        number=current.number,
    )
    return TransferMode.RESYNC, "", disk.capacity_bytes


def _untracked(before: str, now: str) -> str:
    """Why a delta between two change ids cannot be trusted; "" when it can."""
    if not before or not now or before == _NEVER_TRACKED:
        return "the disk has no change id"
    if before.partition("/")[0] != now.partition("/")[0]:
        # The same disk with another tracking uuid: vCenter has reset CBT.
        return "tracking was reset"
    return ""


def release_snapshot(tick: Tick) -> None:
    """Remove the snapshots of a migration that is paused or has failed.

    A migration may stay suspended for long, and a snapshot grows until its datastore is full. What
    was copied is kept: the pass continues with another snapshot and the areas that changed since
    this one. Raises ServiceError if a snapshot cannot be removed.
    """
    if not tick.loaded.vm_moref:
        return
    current = open_pass(tick.fresh())
    if current is not None and current.snapshot_moref:
        stop_transfers(tick, [part.transfer_id for part in current.disks if part.mode])
        text = f"the migration is suspended, the snapshot of pass {current.number} is removed"
        _forget_snapshot(tick, current, "snapshot.released", text)
    settle_snapshots(tick)


def _check_snapshot(tick: Tick, current: tables.Pass, cause: ServiceError) -> None:
    """If the pass's snapshot no longer exists, choose a new name for it and raise SnapshotLost."""
    moref = tick.loaded.vm_moref
    if current.snapshot_name in tick.agents.vmware.snapshot_names(moref, "v2c-"):
        return
    text = f"the snapshot of pass {current.number} is gone; the pass continues with a new one"
    _forget_snapshot(tick, current, "snapshot.lost", text)
    raise SnapshotLost(
        message=f"the snapshot of pass {current.number} disappeared while it was read: "
        f"{cause.message}"
    ) from cause


def _compare_instead(tick: Tick, current: tables.Pass, cause: ServiceError) -> None:
    """If the failed transfer read changed areas, have its whole disk compared; raise ChunkMapLost.

    Only a transfer of changed areas needs the chunk map.
    """
    failed = cause.metadata.get("transfer_id", "")
    with tick.change() as (session, migration):
        row = session.get_one(tables.Pass, (tick.id, current.number))
        part = next((p for p in row.disks if p.transfer_id == failed), None)
        if part is None or part.mode != TransferMode.RANGES:
            return
        disk = next(d for d in migration.disks if d.key == part.key)
        part.mode, part.ranges_id = TransferMode.RESYNC.value, ""
        part.changed_bytes = disk.capacity_bytes
        # The failed transfer cannot get another order under its id: the next attempt needs a new
        # id.
        part.transfer_id = next_transfer_id(part.transfer_id)
        add_event(
            session,
            tick.store.clock,
            migration,
            "map.lost",
            f"{disk.label}: {cause.message}; the whole disk is compared and only what differs is "
            "written",
            unit=disk.unit,
            number=row.number,
        )
    raise ChunkMapLost(
        message=f"{disk.label} cannot continue with its changed areas: {cause.message}"
    ) from cause


def _forget_snapshot(tick: Tick, current: tables.Pass, action: str, text: str) -> None:
    """Name the pass's next snapshot, and keep the change ids from which a full copy continues."""
    with tick.change() as (session, migration):
        row = session.get_one(tables.Pass, (tick.id, current.number))
        row.snapshot_moref = ""
        row.snapshot_name = f"{row.snapshot_name}r"
        add_debt(session, tick.store.clock, migration, DebtKind.SNAPSHOT, row.snapshot_name)
        lost = {part.key: part.change_id or _NEVER_TRACKED for part in row.disks}
        for disk in migration.disks:
            if row.kind == PassKind.BASE:
                # The first lost change id is kept: it covers the changes since every later
                # snapshot, too.
                disk.lost_change_id = disk.lost_change_id or lost.get(disk.key, "")
        for part in list(row.disks):
            session.delete(part)
        add_event(session, tick.store.clock, migration, action, text, number=row.number)
