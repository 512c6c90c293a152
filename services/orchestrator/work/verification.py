"""The transfers that verify, and repair, the images of a machine that is off."""

from collections.abc import Mapping
from dataclasses import replace

from services.orchestrator.database import tables
from services.orchestrator.errors import SpecMismatch
from services.orchestrator.ports.disk import TransferMode, TransferOrder
from services.orchestrator.tick import Tick
from services.orchestrator.work.passes import order_for
from services.orchestrator.work.transfers import transfer_id

__all__ = ["expect_repair", "verify_ids", "verify_orders"]


def verify_orders(tick: Tick, paths: Mapping[int, str]) -> list[TransferOrder]:
    """Transfers that read every image back against the digests of the last pass.

    `paths` are the present files of the source's disks, by device key. Chunks of which a delta pass
    wrote only a part have no digest and are compared with these files, which can be read without a
    snapshot because the machine is off. After `expect_repair` chunks that differ are repaired.
    """
    current = tick.loaded.passes[-1]
    orders = [order_for(tick, current, disk) for disk in tick.loaded.disks]
    return [
        _verifying(order, _path_now(tick, disk, paths))
        for order, disk in zip(orders, tick.loaded.disks, strict=True)
    ]


def expect_repair(tick: Tick) -> None:
    """Have the next verification of this pass repair chunks that differ."""
    with tick.change() as (session, migration):
        row = session.get_one(tables.Pass, (tick.id, migration.passes[-1].number))
        for part in row.disks:
            part.mode = TransferMode.REPAIR.value


def _verifying(order: TransferOrder, path: str) -> TransferOrder:
    repairs = order.mode is TransferMode.REPAIR
    mode = TransferMode.REPAIR if repairs else TransferMode.VERIFY_TARGET
    return replace(
        order,
        transfer_id=transfer_id(order.transfer_id, mode),
        mode=mode,
        snapshot_moref="",
        source_path=path,
        ranges_id="",
    )


def _path_now(tick: Tick, disk: tables.Disk, paths: Mapping[int, str]) -> str:
    if disk.key not in paths:
        raise SpecMismatch(
            message=f"{disk.label} (unit {disk.unit}) of {tick.loaded.vm_name} was removed "
            "after the final sync",
            hint="attach it again and retry, or roll back",
        )
    return paths[disk.key]


def verify_ids(tick: Tick) -> list[str]:
    """The ids of all transfers that `verify_orders` may have returned for this pass."""
    parts = tick.loaded.passes[-1].disks
    modes = (TransferMode.VERIFY_TARGET, TransferMode.REPAIR)
    return [transfer_id(part.transfer_id, mode) for part in parts for mode in modes]
