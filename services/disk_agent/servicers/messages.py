"""Transfers, conversions and failures as messages of DiskService."""

from google.protobuf.timestamp_pb2 import Timestamp

from services.disk_agent.conversions.conversion import Conversion
from services.disk_agent.engine.progress import Progress
from services.disk_agent.resources.record import State
from services.disk_agent.transfers.transfer import Transfer
from services.disk_agent.worker.modes import Mode
from services.kit.failure import Failure
from v2c.disk.v1 import disk_pb2 as pb

MODES = {
    pb.TRANSFER_MODE_FULL: Mode.FULL,
    pb.TRANSFER_MODE_RANGES: Mode.RANGES,
    pb.TRANSFER_MODE_RESYNC: Mode.RESYNC,
    pb.TRANSFER_MODE_VERIFY_TARGET: Mode.VERIFY_TARGET,
    pb.TRANSFER_MODE_VERIFY_FULL: Mode.VERIFY_FULL,
    pb.TRANSFER_MODE_REPAIR: Mode.REPAIR,
}
_MODE_NAMES = {mode: number for number, mode in MODES.items()}
_TRANSFER_STATES = {
    State.QUEUED: pb.TRANSFER_STATE_QUEUED,
    State.RUNNING: pb.TRANSFER_STATE_RUNNING,
    State.SUCCEEDED: pb.TRANSFER_STATE_SUCCEEDED,
    State.FAILED: pb.TRANSFER_STATE_FAILED,
    State.CANCELLED: pb.TRANSFER_STATE_CANCELLED,
}
_CONVERSION_STATES = {
    State.QUEUED: pb.CONVERSION_STATE_QUEUED,
    State.RUNNING: pb.CONVERSION_STATE_RUNNING,
    State.SUCCEEDED: pb.CONVERSION_STATE_SUCCEEDED,
    State.FAILED: pb.CONVERSION_STATE_FAILED,
    State.CANCELLED: pb.CONVERSION_STATE_CANCELLED,
}


def transfer_to_proto(transfer: Transfer) -> pb.Transfer:
    """A transfer as a message."""
    return pb.Transfer(
        transfer_id=transfer.id,
        mode=_MODE_NAMES[transfer.order.mode],
        state=_TRANSFER_STATES[transfer.state],
        revision=transfer.revision,
        target_path=transfer.order.target_path,
        progress=_progress(transfer.progress),
        failure=_failure(transfer.failure),
        attempts=transfer.attempts,
        create_time=_timestamp(transfer.create_time),
        end_time=_timestamp(transfer.end_time),
        disk_id=transfer.order.disk_id,
        pass_number=transfer.order.pass_number,
        digest=transfer.digest,
        rate_bytes_per_second=transfer.rate_bytes_per_second,
        paused=transfer.paused,
        effective_rate_bytes_per_second=transfer.effective_rate,
    )


def conversion_to_proto(conversion: Conversion) -> pb.Conversion:
    """A conversion as a message."""
    return pb.Conversion(
        conversion_id=conversion.id,
        state=_CONVERSION_STATES[conversion.state],
        revision=conversion.revision,
        step=conversion.step,
        failure=_failure(conversion.failure),
        warnings=conversion.warnings,
        requires_uefi=conversion.requires_uefi,
        guest_os=conversion.guest_os,
        log_path=str(conversion.log_path),
        create_time=_timestamp(conversion.create_time),
        end_time=_timestamp(conversion.end_time),
    )


def _timestamp(seconds: float | None) -> Timestamp | None:
    """Seconds since the epoch as a Timestamp."""
    if seconds is None:
        return None
    stamp = Timestamp()
    stamp.FromMilliseconds(int(seconds * 1000))
    return stamp


def _failure(failure: Failure | None) -> pb.Failure | None:
    """A failure as a message; None without one."""
    if failure is None:
        return None
    return pb.Failure(
        reason=failure.reason,
        message=failure.message,
        hint=failure.hint,
        retryable=failure.retryable,
        metadata=failure.metadata,
        code=failure.code.name,
    )


def _progress(progress: Progress) -> pb.Progress:
    eta = progress.eta_seconds
    return pb.Progress(
        total_bytes=progress.total_bytes,
        done_bytes=progress.done_bytes,
        read_bytes=progress.read_bytes,
        written_bytes=progress.written_bytes,
        zero_bytes=progress.zero_bytes,
        skipped_bytes=progress.skipped_bytes,
        resumed_bytes=progress.resumed_bytes,
        rate_bytes_per_second=int(progress.bytes_per_second),
        eta_seconds=-1 if eta is None else int(eta + 0.5),
        verified_bytes=progress.verified_bytes,
        unverified_bytes=progress.unverified_bytes,
        repaired_bytes=progress.repaired_bytes,
        current_area=pb.Area(
            offset_bytes=progress.offset_bytes, length_bytes=progress.length_bytes
        ),
    )
