"""From the orchestrator's messages to what the API sends."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from gateway import models
from gateway.problems import Candidate, SpecProblem
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

_BYTES_PER_MEGABYTE = 1_000_000


def stage_name(stage: pb.Stage.ValueType) -> str:
    """The public name: ``STAGE_BASE_COPY`` is ``base_copy``."""
    return pb.Stage.Name(stage).removeprefix("STAGE_").lower()


def status_name(state: pb.State.ValueType) -> str:
    """The public name: ``STATE_ROLLED_BACK`` is ``rolled_back``."""
    return pb.State.Name(state).removeprefix("STATE_").lower()


def states_named(names: list[str]) -> list[pb.State.ValueType]:
    """The states of these public names, which must be valid ones."""
    return [pb.State.Value(f"STATE_{name.upper()}") for name in names]


def summary(migration: pb.Migration) -> models.MigrationSummary:
    """A migration in short."""
    return models.MigrationSummary.model_validate(_summary_fields(migration))


def status(migration: pb.Migration) -> models.MigrationStatus:
    """Everything about a migration."""
    return models.MigrationStatus.model_validate(
        {
            **_summary_fields(migration),
            "revision": migration.revision,
            "disks": [_disk(disk) for disk in migration.disks],
            "passes": [_pass(entry) for entry in migration.passes],
            "stage_times": [_stage_time(entry) for entry in migration.stage_times],
            "downtime": _downtime(migration),
            "wake_time": _time(migration, "wake_time"),
            "runtime_dir": migration.runtime_dir or None,
            "open_debts": migration.open_debts,
            "debts": [_debt(entry) for entry in migration.debts],
        }
    )


def candidate(entry: pb.Candidate) -> Candidate:
    """A migration in an ambiguity's list."""
    return Candidate(
        migration_id=entry.id,
        vm_name=entry.vm_name,
        vm_moref=entry.vm_moref,
        stage=stage_name(entry.stage),
        status=status_name(entry.state),
    )


def spec_problem(problem: pb.Problem) -> SpecProblem:
    """One thing that is wrong, or looks wrong, in a spec."""
    return SpecProblem(
        source=problem.source,
        line=problem.line,
        column=problem.column,
        field=problem.field,
        value=problem.value,
        message=problem.message,
        hint=problem.hint,
    )


def source_vm(vm: pb.SourceVm) -> models.SourceVm:
    """A machine at the source."""
    return models.SourceVm(
        name=vm.name,
        moref=vm.moref,
        path=vm.path,
        power_state=vm.power_state,
        guest=vm.guest,
        firmware=vm.firmware,
        cpu_count=vm.cpu_count,
        memory_bytes=vm.memory_bytes,
        tools_running=vm.tools_running,
        instance_uuid=vm.instance_uuid,
        disks=[
            models.SourceDisk(
                unit=disk.unit,
                key=disk.key,
                label=disk.label,
                capacity_bytes=disk.capacity_bytes,
                path=disk.path,
            )
            for disk in vm.disks
        ],
        nics=[
            models.SourceNic(
                key=nic.key, index=nic.index, label=nic.label, network=nic.network, mac=nic.mac
            )
            for nic in vm.nics
        ],
    )


def placement(entry: pb.TargetPlacement) -> models.Placement:
    """Something a machine can be placed on."""
    return models.Placement(
        id=entry.id,
        name=entry.name,
        zoneid=entry.zone_id or None,
        clusterid=entry.cluster_id or None,
        attributes=dict(entry.attributes),
    )


def log_entry(event: pb.Event) -> models.LogEntry:
    """One entry of the audit trail."""
    return models.LogEntry(
        sequence=event.sequence,
        time=_time(event, "time"),
        action=event.action,
        message=event.message,
        actor=event.actor,
        details=dict(event.details),
    )


def _summary_fields(migration: pb.Migration) -> dict[str, object]:
    unspecified = migration.next_stage == pb.STAGE_UNSPECIFIED
    return {
        "migration_id": migration.id,
        "vm_name": migration.vm_name,
        "vm_moref": migration.vm_moref or None,
        "stage": stage_name(migration.stage),
        "next_stage": None if unspecified else stage_name(migration.next_stage),
        "status": status_name(migration.state),
        "activity": migration.activity,
        "finalize_requested": migration.finalize_requested,
        "finalize_now_requested": migration.finalize_now_requested,
        "overall_progress": round(min(max(migration.overall_progress, 0.0), 100.0), 2),
        "transfer_speed_mbps": _mbps(migration.transfer_rate_bytes_per_second),
        "disk_progress": {str(disk.unit): round(disk.percent, 2) for disk in migration.disks},
        "delta_passes": migration.delta_passes,
        "error": _error(migration),
        "target_vm_id": migration.target_vm_id or None,
        "create_time": _time(migration, "create_time"),
        "end_time": _time(migration, "end_time"),
    }


def _error(migration: pb.Migration) -> models.MigrationError | None:
    if not migration.HasField("error"):
        return None
    error = migration.error
    return models.MigrationError(
        reason=error.reason,
        message=error.message,
        hint=error.hint,
        retryable=error.retryable,
        metadata=dict(error.metadata),
        time=_time(error, "time"),
    )


def _disk(disk: pb.DiskProgress) -> models.Disk:
    return models.Disk(
        unit=disk.unit,
        key=disk.key,
        label=disk.label,
        is_root=disk.is_root,
        capacity_bytes=disk.capacity_bytes,
        target_path=disk.target_path or None,
        percent=round(disk.percent, 2),
        done_bytes=disk.done_bytes,
        total_bytes=disk.total_bytes,
        speed_mbps=_mbps(disk.rate_bytes_per_second),
        eta_seconds=disk.eta_seconds if disk.eta_seconds >= 0 else None,
        volume_id=disk.volume_id or None,
        digest=disk.digest or None,
    )


def _pass(entry: pb.Pass) -> models.Pass:
    return models.Pass(
        number=entry.number,
        kind=entry.kind,
        start_time=_time(entry, "start_time"),
        end_time=_time(entry, "end_time"),
        read_bytes=entry.read_bytes,
        written_bytes=entry.written_bytes,
        changed_bytes=entry.changed_bytes,
    )


def _debt(entry: pb.Debt) -> models.Debt:
    return models.Debt(
        kind=entry.kind,
        name=entry.name,
        create_time=_time(entry, "create_time"),
        attempts=entry.attempts,
        last_error=entry.last_error or None,
    )


def _stage_time(entry: pb.StageTime) -> models.StageTime:
    return models.StageTime(
        stage=stage_name(entry.stage),
        start_time=_time(entry, "start_time"),
        end_time=_time(entry, "end_time"),
    )


def _downtime(migration: pb.Migration) -> models.Downtime | None:
    if not migration.HasField("downtime") or not migration.downtime.HasField("start_time"):
        return None
    downtime = migration.downtime
    return models.Downtime(
        start_time=_time(downtime, "start_time"),
        end_time=_time(downtime, "end_time"),
        total_seconds=downtime.total_seconds,
        part_seconds=dict(downtime.part_seconds),
    )


def _time(
    message: pb.Migration | pb.Pass | pb.StageTime | pb.Downtime | pb.Error | pb.Event | pb.Debt,
    field: str,
) -> datetime | None:
    """A timestamp field in UTC, None when it is unset."""
    if not any(descriptor.name == field for descriptor, _ in message.ListFields()):
        return None
    timestamp: Timestamp = getattr(message, field)
    return timestamp.ToDatetime(tzinfo=UTC)


def _mbps(bytes_per_second: int) -> float:
    return round(bytes_per_second / _BYTES_PER_MEGABYTE, 2)
