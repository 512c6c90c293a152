"""Translates the domain's snapshots into messages of v2c.orchestrator.v1."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from services.config import Problem
from services.orchestrator.database.views import (
    DebtView,
    DiskView,
    EventView,
    MigrationView,
    PassView,
)
from services.orchestrator.errors import AmbiguousMigration, SpecInvalid
from services.orchestrator.ports.cloudstack import Placement
from services.orchestrator.ports.vmware import SourceVm
from services.orchestrator.stages import STAGE_TABLE, Stage, StageRow, State
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

__all__ = [
    "ambiguity_message",
    "event_message",
    "migration_message",
    "placement_message",
    "problem_message",
    "source_vm_message",
    "spec_invalid_message",
    "state_table",
    "state_values",
]


# A status's details are sent in a trailer, which gRPC clients limit to 8 KiB by default; the
# error's own fields take up to half of it.
_DETAIL_LIMIT_BYTES = 2800
# The tag and the length of an entry in a repeated field.
_FRAME_BYTES = 4


def _stage(stage: Stage) -> pb.Stage.ValueType:
    return pb.Stage.Value(f"STAGE_{stage.name}")


def _time(value: datetime | None) -> Timestamp | None:
    if value is None:
        return None
    message = Timestamp()
    message.FromDatetime(value)
    return message


def state_values(states: Iterable[pb.State.ValueType]) -> tuple[State, ...]:
    """The domain's states for the messages' states; unspecified ones are left out."""
    names = (pb.State.Name(state).removeprefix("STATE_") for state in states)
    return tuple(State[name] for name in names if name != "UNSPECIFIED")


def migration_message(m: MigrationView) -> pb.Migration:
    """A migration's snapshot as a message."""
    message = pb.Migration(
        id=m.id,
        revision=m.revision,
        vm_name=m.vm_name,
        vm_moref=m.vm_moref,
        stage=_stage(m.stage),
        next_stage=_stage(m.next_stage) if m.next_stage else pb.STAGE_UNSPECIFIED,
        state=pb.State.Value(f"STATE_{m.state.name}"),
        activity=m.activity,
        finalize_requested=m.finalize_requested,
        finalize_now_requested=m.finalize_now_requested,
        overall_progress=m.overall_progress,
        transfer_rate_bytes_per_second=m.transfer_rate_bytes_per_second,
        disks=[_disk(d) for d in m.disks],
        passes=[_pass(p) for p in m.passes],
        stage_times=[
            pb.StageTime(
                stage=_stage(t.stage), start_time=_time(t.start_time), end_time=_time(t.end_time)
            )
            for t in m.stage_times
        ],
        target_vm_id=m.target_vm_id,
        create_time=_time(m.create_time),
        end_time=_time(m.end_time),
        wake_time=_time(m.wake_time),
        runtime_dir=m.runtime_dir,
        delta_passes=m.delta_passes,
        open_debts=m.open_debts,
        debts=[_debt(d) for d in m.debts],
    )
    if m.error is not None:
        message.error.CopyFrom(
            pb.Error(
                reason=m.error.reason,
                message=m.error.message,
                hint=m.error.hint,
                retryable=m.error.retryable,
                metadata=m.error.metadata,
                time=_time(m.error_time),
            )
        )
    if m.downtime is not None:
        message.downtime.CopyFrom(
            pb.Downtime(
                start_time=_time(m.downtime.start_time),
                end_time=_time(m.downtime.end_time),
                part_seconds=m.downtime.part_seconds,
                total_seconds=m.downtime.total_seconds,
            )
        )
    return message


def _disk(d: DiskView) -> pb.DiskProgress:
    return pb.DiskProgress(
        unit=d.unit,
        key=d.key,
        label=d.label,
        capacity_bytes=d.capacity_bytes,
        target_path=d.target_path,
        percent=d.percent,
        done_bytes=d.done_bytes,
        total_bytes=d.total_bytes,
        rate_bytes_per_second=d.rate_bytes_per_second,
        eta_seconds=d.eta_seconds,
        is_root=d.is_root,
        volume_id=d.volume_id,
        digest=d.digest,
    )


def _pass(p: PassView) -> pb.Pass:
    return pb.Pass(
        number=p.number,
        kind=p.kind,
        start_time=_time(p.start_time),
        end_time=_time(p.end_time),
        read_bytes=p.read_bytes,
        written_bytes=p.written_bytes,
        changed_bytes=p.changed_bytes,
    )


def _debt(d: DebtView) -> pb.Debt:
    return pb.Debt(
        kind=d.kind,
        name=d.name,
        create_time=_time(d.create_time),
        attempts=d.attempts,
        last_error=d.last_error,
    )


def event_message(e: EventView) -> pb.Event:
    """An audit event as a message."""
    return pb.Event(
        sequence=e.sequence,
        time=_time(e.time),
        migration_id=e.migration_id,
        vm_name=e.vm_name,
        action=e.action,
        message=e.message,
        actor=e.actor,
        details=e.details,
    )


def problem_message(p: Problem) -> pb.Problem:
    """A mistake in a spec as a message."""
    return pb.Problem(
        source=p.source,
        line=p.line,
        column=p.column,
        field=p.field,
        value=p.value,
        message=p.message,
        hint=p.hint,
    )


def ambiguity_message(exc: AmbiguousMigration) -> pb.AmbiguousMigrationDetails:
    """The migrations that match an ambiguous selector, as many as fit, as a message."""
    candidates = [
        pb.Candidate(
            id=c.id,
            vm_name=c.vm_name,
            vm_moref=c.vm_moref,
            stage=pb.Stage.Value(f"STAGE_{c.stage.name}"),
            state=pb.State.Value(f"STATE_{c.state.name}"),
        )
        for c in exc.candidates
    ]
    fit = _fitting(candidates)
    return pb.AmbiguousMigrationDetails(
        selector=exc.wanted, candidates=fit, more_count=len(candidates) - len(fit)
    )


def spec_invalid_message(exc: SpecInvalid) -> pb.SpecInvalidDetails:
    """The mistakes in a spec, as many as fit, as a message."""
    fit = _fitting([problem_message(p) for p in exc.problems])
    return pb.SpecInvalidDetails(problems=fit, more_count=len(exc.problems) - len(fit))


_M = TypeVar("_M", pb.Candidate, pb.Problem)


def _fitting(messages: Sequence[_M]) -> Sequence[_M]:
    """The first of `messages`, as many as fit into a status's details."""
    room = _DETAIL_LIMIT_BYTES
    for count, message in enumerate(messages):
        room -= message.ByteSize() + _FRAME_BYTES
        if room < 0:
            return messages[:count]
    return messages


def _row(r: StageRow) -> pb.StateTableRow:
    return pb.StateTableRow(
        stage=_stage(r.stage),
        name=r.stage.value,
        description=r.description,
        next_stages=[_stage(stage) for stage in r.next],
        on_retry=r.on_retry,
        on_rollback=r.on_rollback,
        controls=sorted(control.value for control in r.controls),
    )


def state_table() -> pb.GetStateTableResponse:
    """The state machine's table as a message."""
    return pb.GetStateTableResponse(rows=[_row(r) for r in STAGE_TABLE.values()])


def source_vm_message(vm: SourceVm) -> pb.SourceVm:
    """A machine at the source as a message."""
    return pb.SourceVm(
        moref=vm.moref,
        name=vm.name,
        path=vm.path,
        power_state=vm.power,
        guest=vm.guest,
        firmware=vm.firmware,
        cpu_count=vm.cpu_count,
        memory_bytes=vm.memory_bytes,
        disks=[
            pb.SourceDisk(
                unit=d.unit,
                key=d.key,
                label=d.label,
                capacity_bytes=d.capacity_bytes,
                path=d.path,
            )
            for d in vm.disks
        ],
        nics=[
            pb.SourceNic(key=n.key, index=n.index, label=n.label, network=n.network, mac=n.mac)
            for n in vm.nics
        ],
        instance_uuid=vm.instance_uuid,
        tools_running=vm.tools_running,
    )


def placement_message(p: Placement) -> pb.TargetPlacement:
    """A placement as a message."""
    return pb.TargetPlacement(
        id=p.id,
        name=p.name,
        zone_id=p.zone_id,
        cluster_id=p.cluster_id,
        attributes=p.attributes,
    )
