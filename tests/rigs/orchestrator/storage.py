"""A storage host in memory whose transfers really copy."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from services.kit.failure import Failure, ServiceError
from services.orchestrator.ports.disk import (
    ConversionSnapshot,
    Pool,
    ReachedPool,
    TransferMode,
    TransferOrder,
    TransferSnapshot,
    WorkState,
)
from services.orchestrator.ports.vmware import Area
from tests.rigs.orchestrator.vcenter import MemoryVcenter
from tests.rigs.orchestrator.world import BLOCK, Blocks, World, failure


@dataclass
class MemoryTransfer:
    """A transfer and the blocks that are still pending."""

    order: TransferOrder
    state: WorkState = WorkState.QUEUED
    todo: list[int] = field(default_factory=list)
    total: int = 0
    read: int = 0
    written: int = 0
    verified: int = 0
    repaired: int = 0
    failure: Failure | None = None

    def snapshot(self) -> TransferSnapshot:
        return TransferSnapshot(
            transfer_id=self.order.transfer_id,
            state=self.state,
            total_bytes=self.total * BLOCK,
            done_bytes=(self.total - len(self.todo)) * BLOCK,
            read_bytes=self.read * BLOCK,
            written_bytes=self.written * BLOCK,
            verified_bytes=self.verified * BLOCK,
            repaired_bytes=self.repaired * BLOCK,
            digest=f"digest-{self.order.pass_number}" if self.state is WorkState.SUCCEEDED else "",
            failure=self.failure,
        )


@dataclass
class MemoryImage:
    """An image with the digests of what was read for it, and the snapshot that fills it."""

    block_count: int
    blocks: Blocks = field(default_factory=dict)
    digests: Blocks = field(default_factory=dict)
    base_snapshot: str = ""
    base_done: set[int] = field(default_factory=set)
    converted: bool = False


class MemoryStorage:
    """Implements `ports.DiskPort`. Each get_transfer advances the transfer by `pace` blocks."""

    def __init__(self, world: World, vcenter: MemoryVcenter, pace: int = 7) -> None:
        self._world = world
        self._vcenter = vcenter
        self.pace = pace
        self.images: dict[str, MemoryImage] = {}
        self.ranges: dict[str, list[Area]] = {}
        self.transfers: dict[str, MemoryTransfer] = {}
        self.conversions: dict[str, dict[str, Any]] = {}
        self.epochs: dict[str, int] = {}
        self.conversion_polls = 2
        self.conversion_failure: Failure | None = None
        # Pools by who mounted them.
        self.mounted: set[str] = set()
        self.mounted_by_others: set[str] = set()
        # If set, from another thread in tests with real time, transfers make no progress.
        self.held = False
        # If set, blocks that a repair writes are read back with other content.
        self.forgets = False

    def check(self) -> None:
        """Always succeeds."""

    def ensure_pool(self, pool: Pool) -> ReachedPool:
        if pool.id not in self.mounted_by_others:
            self.mounted.add(pool.id)
        return ReachedPool(f"/pools/{pool.id}", pool.id in self.mounted)

    def release_pool(self, pool_id: str) -> None:
        if any(self._at_work(t, t.order.target_path) for t in self.transfers.values()):
            raise failure("POOL_BUSY", retryable=True)
        self.mounted.discard(pool_id)

    def create_image(self, pool_id: str, name: str, size_bytes: int, expected_bytes: int) -> str:
        self._reachable(f"/pools/{pool_id}/{name}")
        path = f"/pools/{pool_id}/{name}"
        self.images.setdefault(path, MemoryImage(size_bytes // BLOCK))
        return path

    def resize_image(self, path: str, size_bytes: int) -> None:
        self._world.rule(
            size_bytes // BLOCK >= self.images[path].block_count, f"{path} was made smaller"
        )
        self.images[path].block_count = size_bytes // BLOCK

    def delete_image(self, path: str) -> None:
        if any(self._at_work(t, path) for t in self.transfers.values()) or any(
            c["state"] is WorkState.RUNNING and path in c["images"]
            for c in self.conversions.values()
        ):
            raise failure("IMAGE_LOCKED", retryable=True)
        self.images.pop(path, None)

    def put_ranges(self, ranges_id: str, capacity_bytes: int, areas: Iterator[Area]) -> int:
        self.ranges[ranges_id] = list(areas)
        return sum(a.length for a in self.ranges[ranges_id])

    def start_transfer(self, order: TransferOrder) -> TransferSnapshot:
        self._fence(order.target_path, order.epoch)
        self._reachable(order.target_path)
        known = self.transfers.get(order.transfer_id)
        if known is not None:
            if replace(known.order, epoch=0) != replace(order, epoch=0):
                raise failure("TRANSFER_EXISTS")
            if known.state is WorkState.CANCELLED:
                raise failure("TRANSFER_ENDED")
            if known.state is not WorkState.FAILED:
                return known.snapshot()
        if any(self._at_work(t, order.target_path) for t in self.transfers.values()):
            raise failure("TARGET_BUSY", retryable=True)
        transfer = known or MemoryTransfer(order)
        self._plan(transfer)
        self.transfers[order.transfer_id] = transfer
        return transfer.snapshot()

    def get_transfer(self, transfer_id: str) -> TransferSnapshot:
        self._vcenter.guests_write()
        transfer = self._transfer(transfer_id)
        if transfer.state in {WorkState.QUEUED, WorkState.RUNNING} and not self.held:
            self._advance(transfer)
        return transfer.snapshot()

    def cancel_transfer(self, transfer_id: str, epoch: int) -> None:
        transfer = self._transfer(transfer_id)
        self._fence(transfer.order.target_path, epoch)
        if transfer.state in {WorkState.QUEUED, WorkState.RUNNING, WorkState.FAILED}:
            transfer.state = WorkState.CANCELLED

    def start_conversion(
        self, conversion_id: str, images: Sequence[str], virtio_iso: str, epoch: int
    ) -> ConversionSnapshot:
        self._reachable(images[0])
        known = self.conversions.get(conversion_id)
        if known is None or known["state"] is WorkState.FAILED:
            fresh = {
                "state": WorkState.RUNNING,
                "images": tuple(images),
                "left": self.conversion_polls,
            }
            self.conversions[conversion_id] = fresh
        return ConversionSnapshot(self.conversions[conversion_id]["state"])

    def get_conversion(self, conversion_id: str) -> ConversionSnapshot:
        now = self._conversion(conversion_id)
        if now["state"] is WorkState.RUNNING:
            now["left"] -= 1
            if now["left"] <= 0 and self.conversion_failure:
                now["state"] = WorkState.FAILED
            elif now["left"] <= 0:
                now["state"] = WorkState.SUCCEEDED
                self.images[now["images"][0]].converted = True
        why = self.conversion_failure if now["state"] is WorkState.FAILED else None
        return ConversionSnapshot(
            now["state"],
            step="Inspecting",
            guest_os="Linux",
            log_path="/log/virt-v2v.log",
            failure=why,
        )

    def cancel_conversion(self, conversion_id: str, epoch: int) -> None:
        now = self._conversion(conversion_id)
        if now["state"] is WorkState.RUNNING:
            now["state"] = WorkState.CANCELLED

    def prune_records(
        self, images_in_use: Sequence[str], ranges_in_use: Sequence[str], ended_before: datetime
    ) -> None:
        """Remove all records not in use, whatever their age, so that tests find what is missing."""
        newest: dict[str, int] = {}
        for each in self.transfers.values():
            path = each.order.target_path
            newest[path] = max(newest.get(path, 0), each.order.pass_number)
        self.transfers = {
            id_: each
            for id_, each in self.transfers.items()
            if each.order.target_path in images_in_use
            and each.order.pass_number == newest[each.order.target_path]
        }
        used = {each.order.ranges_id for each in self.transfers.values()}
        self.ranges = {k: v for k, v in self.ranges.items() if k in used.union(ranges_in_use)}
        for id_, conversion in list(self.conversions.items()):
            if not set(conversion["images"]) & set(images_in_use):
                del self.conversions[id_]
        for path in self.images.keys() - set(images_in_use):
            self.epochs.pop(path, None)
            self.images[path].digests.clear()

    def _plan(self, transfer: MemoryTransfer) -> None:
        order = transfer.order
        image = self.images[order.target_path]
        self._world.rule(
            not image.converted or order.mode is TransferMode.VERIFY_TARGET,
            f"{order.mode} after the conversion of {order.target_path}",
        )
        if transfer.state is WorkState.FAILED:
            transfer.state = WorkState.QUEUED
            return
        whole = list(range(image.block_count))
        if order.mode is TransferMode.RANGES:
            transfer.todo = [a.offset // BLOCK for a in self.ranges[order.ranges_id]]
            transfer.total = len(transfer.todo)
        else:
            transfer.todo, transfer.total = whole, len(whole)
        if order.mode is TransferMode.FULL:
            if order.ranges_id and image.base_snapshot != order.snapshot_moref:
                image.base_done -= {a.offset // BLOCK for a in self.ranges[order.ranges_id]}
            elif image.base_snapshot not in ("", order.snapshot_moref):
                self._world.broken.append(f"{order.transfer_id} mixes two snapshots in one image")
            image.base_snapshot = order.snapshot_moref
            transfer.todo = [b for b in whole if b not in image.base_done]

    def _advance(self, transfer: MemoryTransfer) -> None:
        order, image = transfer.order, self.images[transfer.order.target_path]
        transfer.state = WorkState.RUNNING
        batch, transfer.todo = transfer.todo[: self.pace], transfer.todo[self.pace :]
        try:
            for block in batch:
                self._copy(transfer, order, image, block)
        except ServiceError as exc:
            transfer.todo = batch + transfer.todo
            transfer.state, transfer.failure = WorkState.FAILED, exc.failure
            return
        if not transfer.todo:
            transfer.state = WorkState.SUCCEEDED

    def _copy(
        self, transfer: MemoryTransfer, order: TransferOrder, image: MemoryImage, block: int
    ) -> None:
        transfer.read += 1
        if order.mode is TransferMode.VERIFY_TARGET:
            self._vcenter.open_live(order)
            transfer.verified += 1
            if image.blocks.get(block, 0) != image.digests.get(block, 0):
                raise failure("CONTENT_MISMATCH")
            return
        if order.mode is TransferMode.REPAIR:
            self._repair(transfer, order, image, block)
            return
        value = self._vcenter.read(order.vm_moref, order.snapshot_moref, order.disk_key).get(
            block, 0
        )
        image.base_done.add(block)
        if order.mode is TransferMode.RESYNC and image.digests.get(block, 0) == value:
            return
        transfer.written += 1
        image.blocks[block] = image.digests[block] = value

    def _repair(
        self, transfer: MemoryTransfer, order: TransferOrder, image: MemoryImage, block: int
    ) -> None:
        self._vcenter.open_live(order)
        transfer.verified += 1
        if image.blocks.get(block, 0) != image.digests.get(block, 0):
            transfer.repaired += 1
            image.blocks[block] = image.digests.get(block, 0)
            if self.forgets:
                image.blocks[block] = -1
                raise failure("CONTENT_MISMATCH")

    def _at_work(self, transfer: MemoryTransfer, path: str) -> bool:
        return transfer.order.target_path == path and transfer.state in {
            WorkState.QUEUED,
            WorkState.RUNNING,
        }

    def _reachable(self, path: str) -> None:
        pool = path.split("/")[2]
        self._world.rule(
            pool in self.mounted | self.mounted_by_others, f"{path} is used but not mounted"
        )

    def _fence(self, path: str, epoch: int) -> None:
        if epoch < self.epochs.get(path, 0):
            raise failure("STALE_EPOCH")
        self.epochs[path] = epoch

    def _transfer(self, transfer_id: str) -> MemoryTransfer:
        if transfer_id not in self.transfers:
            raise failure("TRANSFER_NOT_FOUND")
        return self.transfers[transfer_id]

    def _conversion(self, conversion_id: str) -> dict[str, Any]:
        if conversion_id not in self.conversions:
            raise failure("CONVERSION_NOT_FOUND")
        return self.conversions[conversion_id]
