"""Checks of a transfer's order, and which of its fields must be the same when it is restarted."""

from dataclasses import replace

from services.disk_agent.resources.record import is_resource_id
from services.disk_agent.transfers.errors import InvalidTransfer
from services.disk_agent.worker.order import TransferOrder


def identity(order: TransferOrder) -> TransferOrder:
    """What must be the same when a transfer is started again: all but tuning and source."""
    return replace(order, queue_depth=0, chunk_bytes=0, source=None)


def check(order: TransferOrder) -> None:
    """Raise InvalidTransfer, naming all fields that cannot be valid."""
    problems = {
        "transfer_id": not is_resource_id(order.transfer_id),
        "target_path": not order.target_path.startswith("/"),
        "capacity_bytes": order.capacity_bytes <= 0,
        "disk_id": not order.disk_id,
        "queue_depth": not 1 <= order.queue_depth <= 64,
        "chunk_bytes": not _is_chunk_size(order.chunk_bytes),
    }
    wrong = [name for name, bad in problems.items() if bad]
    if wrong:
        raise InvalidTransfer(
            message=f"a transfer needs a valid {', '.join(wrong)}",
            metadata={"fields": ",".join(wrong)},
        )


def _is_chunk_size(size: int) -> bool:
    # At most qemu-nbd's largest request; a power of two, so that no chunk lies in two windows.
    return 4096 <= size <= 32 << 20 and size & (size - 1) == 0
