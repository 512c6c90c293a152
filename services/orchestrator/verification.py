"""The transfers that verify the images of a machine that is off."""

from collections.abc import Mapping
from dataclasses import replace

from services.orchestrator import tables
from services.orchestrator.errors import SpecMismatch
from services.orchestrator.passes import order_for
from services.orchestrator.ports import TransferMode, TransferOrder
from services.orchestrator.tick import Tick

__all__ = ["verify_ids", "verify_orders"]


def verify_orders(tick: Tick, paths: Mapping[int, str]) -> list[TransferOrder]:
    """Transfers that read every image back against the digests of the last pass.

    `paths` are the files of the machine's disks now, by key: areas of which a delta pass wrote only
    a part have no digest, and are compared with the source. It is off, so that its disks can be
    read without a snapshot.
    """
    current = tick.migration.passes[-1]
    orders = [order_for(tick, current, disk) for disk in tick.migration.disks]
    return [
        replace(
            order,
            transfer_id=_verify_id(order.transfer_id),
            mode=TransferMode.VERIFY_TARGET,
            snapshot_moref="",
            source_path=_path_now(tick, disk, paths),
            ranges_id="",
        )
        for order, disk in zip(orders, tick.migration.disks, strict=True)
    ]


def _path_now(tick: Tick, disk: tables.Disk, paths: Mapping[int, str]) -> str:
    if disk.key not in paths:
        raise SpecMismatch(
            message=f"{disk.label} (unit {disk.unit}) of {tick.migration.vm_name} was removed "
            "after the final sync",
            hint="attach it again and retry, or roll back",
        )
    return paths[disk.key]


def verify_ids(tick: Tick) -> list[str]:
    """The ids of the transfers in `verify_orders`."""
    return [_verify_id(part.transfer_id) for part in tick.migration.passes[-1].disks]


def _verify_id(transfer_id: str) -> str:
    return f"{transfer_id}-verify"
