"""Immutable snapshots of a migration, as the API, the CLI, state.json and the UI show it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from services.kit.failure import Failure
from services.orchestrator.database import tables
from services.orchestrator.database.tables import PassKind
from services.orchestrator.stages import COUNTED_IN_BYTES, TERMINAL, Stage, State, row

__all__ = [
    "PASSES_KEPT",
    "DebtView",
    "DiskView",
    "Downtime",
    "EventView",
    "MigrationView",
    "PassView",
    "StageTime",
    "event_view",
    "exported",
    "view",
]

# The per cent at which each stage begins; stages counted in bytes advance up to the next stage's.
_PROGRESS = {
    Stage.INIT: (0, 0),
    Stage.CONNECTING_VCENTER: (0, 1),
    Stage.FINDING_VM: (1, 2),
    Stage.DISCOVERING_VMWARE_DISKS: (2, 3),
    Stage.PREPARING_TARGET_STORAGE: (3, 4),
    Stage.ENABLING_CBT: (4, 5),
    Stage.CREATING_BASE_SNAPSHOT: (5, 6),
    Stage.BASE_COPY: (6, 80),
    Stage.DELTA: (80, 80),
    Stage.AWAITING_SHUTDOWN_ACTION: (80, 80),
    Stage.FINAL_SYNC: (81, 86),
    Stage.VERIFYING: (86, 90),
    Stage.CONVERTING: (90, 95),
    Stage.IMPORT_ROOT_DISK: (95, 97),
    Stage.IMPORT_DATA_DISK: (97, 99),
    Stage.DONE: (100, 100),
}
_DOWNTIME_PARTS = (
    Stage.FINAL_SYNC,
    Stage.VERIFYING,
    Stage.CONVERTING,
    Stage.IMPORT_ROOT_DISK,
    Stage.IMPORT_DATA_DISK,
)
# The number of passes that are kept and shown, besides the base copy.
PASSES_KEPT = 100


@dataclass(frozen=True)
class DiskView:
    """One disk and its progress in the present pass."""

    unit: int
    key: int
    label: str
    capacity_bytes: int
    target_path: str
    percent: float
    done_bytes: int
    total_bytes: int
    rate_bytes_per_second: int
    eta_seconds: int
    is_root: bool
    volume_id: str
    digest: str


@dataclass(frozen=True)
class PassView:
    """One pass; `kind` is a `PassKind`."""

    number: int
    kind: str
    start_time: datetime
    end_time: datetime | None
    read_bytes: int
    written_bytes: int
    changed_bytes: int


@dataclass(frozen=True)
class StageTime:
    """When a stage was entered and left."""

    stage: Stage
    start_time: datetime
    end_time: datetime | None


@dataclass(frozen=True)
class Downtime:
    """The downtime clock; parts in seconds, "shutdown" and the stages of the cutover."""

    start_time: datetime
    end_time: datetime | None
    part_seconds: Mapping[str, float]
    total_seconds: float


@dataclass(frozen=True)
class DebtView:
    """Something that must be undone; `kind` is a `DebtKind`, `create_time` is when it was added.

    Settling it has failed `attempts` times, the last time with the message `last_error`.
    """

    kind: str
    name: str
    create_time: datetime
    attempts: int
    last_error: str


@dataclass(frozen=True)
class MigrationView:
    """One migration at one revision.

    `error` is why it failed, or why its stage is being retried.
    """

    id: str
    revision: int
    vm_name: str
    vm_moref: str
    stage: Stage
    next_stage: Stage | None
    state: State
    activity: str
    error: Failure | None
    error_time: datetime | None
    finalize_requested: bool
    finalize_now_requested: bool
    overall_progress: float
    transfer_rate_bytes_per_second: int
    disks: tuple[DiskView, ...]
    passes: tuple[PassView, ...]
    stage_times: tuple[StageTime, ...]
    downtime: Downtime | None
    target_vm_id: str
    create_time: datetime
    end_time: datetime | None
    wake_time: datetime | None
    runtime_dir: str
    delta_passes: int
    open_debts: int
    debts: tuple[DebtView, ...]


@dataclass(frozen=True)
class EventView:
    """One entry of the audit trail."""

    sequence: int
    time: datetime
    migration_id: str
    vm_name: str
    action: str
    message: str
    actor: str
    details: Mapping[str, str]


def view(m: tables.Migration, now: datetime) -> MigrationView:
    """The snapshot of a loaded migration at `now`."""
    stage, state = Stage(m.stage), State(m.state)
    disks = tuple(_disk(d) for d in m.disks)
    following = row(stage).next
    times = tuple(
        StageTime(Stage(name), datetime.fromisoformat(start), _time(end))
        for name, start, end in m.stage_times
    )
    return MigrationView(
        id=m.id,
        revision=m.revision,
        vm_name=m.vm_name,
        vm_moref=m.vm_moref,
        stage=stage,
        next_stage=following[0] if following else None,
        state=state,
        activity=m.activity,
        error=Failure.from_wire(m.error) if m.error else None,
        error_time=_time(m.error["time"]) if m.error else None,
        finalize_requested=m.finalize_requested,
        finalize_now_requested=m.finalize_now_requested,
        overall_progress=_progress(stage, disks),
        transfer_rate_bytes_per_second=sum(d.rate_bytes_per_second for d in disks),
        disks=disks,
        passes=tuple(_pass(p) for p in m.passes[-PASSES_KEPT:]),
        stage_times=times,
        downtime=_downtime(m, times, now),
        target_vm_id=m.target_vm_id,
        create_time=m.create_time,
        end_time=m.end_time,
        wake_time=m.due_time if state is State.WAITING else None,
        runtime_dir=m.runtime_dir,
        # Counted by number: deltas have consecutive numbers from 1, and old ones are not kept.
        delta_passes=max(
            (p.number for p in m.passes if p.kind == PassKind.DELTA and p.end_time), default=0
        ),
        open_debts=len(m.debts),
        debts=tuple(
            DebtView(d.kind, d.name, d.create_time, d.attempts, d.last_error) for d in m.debts
        ),
    )


def event_view(e: tables.Event) -> EventView:
    """The snapshot of an audit event."""
    return EventView(
        sequence=e.sequence,
        time=e.time,
        migration_id=e.migration_id,
        vm_name=e.vm_name,
        action=e.action,
        message=e.message,
        actor=e.actor,
        details={key: str(value) for key, value in e.details.items()},
    )


def exported(m: MigrationView) -> dict[str, Any]:
    """The content of state.json, with the names that the reference tool's scripts read."""
    data: dict[str, Any] = asdict(m)
    data["status"] = data.pop("state")
    time = data.pop("error_time")
    data["error"] = {**m.error.to_wire(), "time": time} if m.error else None
    data["vm_id"] = m.vm_moref
    data["transfer_speed_mbps"] = round(m.transfer_rate_bytes_per_second / 1e6, 2)
    data["disk_progress"] = {str(d.unit): round(d.percent, 1) for d in m.disks}
    return data


def _disk(d: tables.Disk) -> DiskView:
    percent = 100.0 * d.done_bytes / d.total_bytes if d.total_bytes else 0.0
    return DiskView(
        unit=d.unit,
        key=d.key,
        label=d.label,
        capacity_bytes=d.capacity_bytes,
        target_path=d.image_path,
        percent=min(percent, 100.0),
        done_bytes=d.done_bytes,
        total_bytes=d.total_bytes,
        rate_bytes_per_second=d.rate,
        eta_seconds=d.eta_seconds,
        is_root=d.is_root,
        volume_id=d.volume_id,
        digest=d.digest,
    )


def _pass(p: tables.Pass) -> PassView:
    return PassView(
        p.number, p.kind, p.start_time, p.end_time, p.read_bytes, p.written_bytes, p.changed_bytes
    )


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _progress(stage: Stage, disks: tuple[DiskView, ...]) -> float:
    start, end = _PROGRESS[stage]
    total = sum(d.total_bytes for d in disks)
    if stage not in COUNTED_IN_BYTES or not total:
        return float(start)
    share = min(sum(d.done_bytes for d in disks) / total, 1.0)
    return start + (end - start) * share


def _downtime(m: tables.Migration, times: tuple[StageTime, ...], now: datetime) -> Downtime | None:
    if m.shutdown_time is None:
        return None
    end = m.up_time or (m.end_time if m.state in TERMINAL else None)
    until = end or now
    off = m.off_time or until
    parts = {"shutdown": max((off - m.shutdown_time).total_seconds(), 0.0)}
    for entry in times:
        if entry.stage not in _DOWNTIME_PARTS:
            continue
        begun = max(entry.start_time, off)
        seconds = (min(entry.end_time or until, until) - begun).total_seconds()
        parts[entry.stage] = parts.get(entry.stage, 0.0) + max(seconds, 0.0)
    return Downtime(
        start_time=m.shutdown_time,
        end_time=end,
        part_seconds={name: round(seconds, 3) for name, seconds in parts.items()},
        total_seconds=round((until - m.shutdown_time).total_seconds(), 3),
    )
