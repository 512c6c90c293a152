"""Transfers and range sets: proto to domain and back, nothing else."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import grpc

from services.config import Secret
from services.disk_agent.conversions.registry import Conversions
from services.disk_agent.engine.ranges import Range
from services.disk_agent.servicers.messages import MODES, transfer_to_proto
from services.disk_agent.transfers.errors import InvalidTransfer, TargetConverted
from services.disk_agent.transfers.registry import Transfers
from services.disk_agent.worker.modes import Mode
from services.disk_agent.worker.order import NbdSpec, SourceSpec, TransferOrder, VddkSpec
from services.disk_agent.worker.range_sets import RangeSets
from v2c.disk.v1 import disk_pb2 as pb
from v2c.disk.v1 import disk_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(frozen=True)
class TransferDefaults:
    """Values from the agent's configuration for fields that a request leaves empty."""

    server: str
    user: str
    password: Secret
    thumbprint: str
    port: int
    library_dir: str
    queue_depth: int
    chunk_bytes: int


class TransferServicer(disk_pb2_grpc.DiskServiceServicer):
    """The part of DiskService about transfers."""

    _transfers: Transfers
    _ranges: RangeSets
    _defaults: TransferDefaults
    _conversions: Conversions

    async def PutRanges(
        self, request_iterator: AsyncIterator[pb.PutRangesRequest], context: Context
    ) -> pb.PutRangesResponse:
        """Collect the areas of all messages, then check and store them as one set."""
        ranges_id, capacity = "", 0
        areas: list[Range] = []
        async for request in request_iterator:
            ranges_id = ranges_id or request.ranges_id
            capacity = capacity or request.capacity_bytes
            if request.ranges_id not in ("", ranges_id):
                raise InvalidTransfer(message="one stream of areas names two range sets")
            if request.capacity_bytes not in (0, capacity):
                raise InvalidTransfer(message="one stream of areas names two capacities")
            areas.extend(Range(area.offset_bytes, area.length_bytes) for area in request.areas)
        summary = await asyncio.to_thread(self._ranges.put, ranges_id, areas, capacity)
        return pb.PutRangesResponse(count=summary.count, total_bytes=summary.total_bytes)

    async def StartTransfer(
        self, request: pb.StartTransferRequest, context: Context
    ) -> pb.StartTransferResponse:
        """Start a transfer, attach to it, or resume it."""
        order, password = self._order(request)
        await self._refuse_converted(order)
        options = request.options
        _check_rate(options.rate_bytes_per_second)
        transfer, existed = await self._transfers.start(
            order,
            password=password,
            epoch=request.epoch,
            rate=options.rate_bytes_per_second,
        )
        return pb.StartTransferResponse(transfer=transfer_to_proto(transfer), existed=existed)

    async def GetTransfer(
        self, request: pb.GetTransferRequest, context: Context
    ) -> pb.GetTransferResponse:
        """Return one transfer."""
        return pb.GetTransferResponse(
            transfer=transfer_to_proto(self._transfers.get(request.transfer_id))
        )

    async def ListTransfers(
        self, request: pb.ListTransfersRequest, context: Context
    ) -> pb.ListTransfersResponse:
        """Return all transfers, or those of one image."""
        found = self._transfers.list(request.target_path)
        return pb.ListTransfersResponse(transfers=[transfer_to_proto(each) for each in found])

    async def CancelTransfer(
        self, request: pb.CancelTransferRequest, context: Context
    ) -> pb.CancelTransferResponse:
        """End a transfer; none of its processes runs any more when this returns."""
        transfer = await self._transfers.cancel(request.transfer_id, epoch=request.epoch)
        return pb.CancelTransferResponse(transfer=transfer_to_proto(transfer))

    async def WatchTransfer(
        self, request: pb.WatchTransferRequest, context: Context
    ) -> AsyncIterator[pb.WatchTransferResponse]:
        """Stream snapshots of a transfer until it ends."""
        async for transfer in self._transfers.watch(request.transfer_id, request.after_revision):
            yield pb.WatchTransferResponse(transfer=transfer_to_proto(transfer))

    async def SetTransferRate(
        self, request: pb.SetTransferRateRequest, context: Context
    ) -> pb.SetTransferRateResponse:
        """Change a transfer's rate limit."""
        _check_rate(request.rate_bytes_per_second)
        transfer = await self._transfers.set_rate(
            request.transfer_id, request.rate_bytes_per_second
        )
        return pb.SetTransferRateResponse(transfer=transfer_to_proto(transfer))

    async def PauseTransfer(
        self, request: pb.PauseTransferRequest, context: Context
    ) -> pb.PauseTransferResponse:
        """Pause a transfer."""
        transfer = await self._transfers.pause(
            request.transfer_id, paused=True, epoch=request.epoch
        )
        return pb.PauseTransferResponse(transfer=transfer_to_proto(transfer))

    async def ResumeTransfer(
        self, request: pb.ResumeTransferRequest, context: Context
    ) -> pb.ResumeTransferResponse:
        """Resume a paused transfer."""
        transfer = await self._transfers.pause(
            request.transfer_id, paused=False, epoch=request.epoch
        )
        return pb.ResumeTransferResponse(transfer=transfer_to_proto(transfer))

    async def DeleteTransfer(
        self, request: pb.DeleteTransferRequest, context: Context
    ) -> pb.DeleteTransferResponse:
        """Delete the record of an ended transfer."""
        await self._transfers.delete(request.transfer_id)
        return pb.DeleteTransferResponse()

    async def _refuse_converted(self, order: TransferOrder) -> None:
        """Raise TargetConverted if the image holds a converted guest: a copy would corrupt it."""
        converted = await self._conversions.converted(Path(order.target_path))
        if converted is not None:
            raise TargetConverted(
                message=f"{order.target_path} holds a guest converted by {converted.conversion_id}",
                metadata={"conversion_id": converted.conversion_id},
            )

    def _order(self, request: pb.StartTransferRequest) -> tuple[TransferOrder, Secret]:
        mode = MODES.get(request.mode)
        if mode is None:
            raise InvalidTransfer(message="a transfer needs a mode")
        source = self._source(request.source)
        if source is None and mode is not Mode.VERIFY_TARGET:
            raise InvalidTransfer(message=f"mode {mode.value} needs a source")
        if mode is Mode.RANGES and not request.ranges_id:
            raise InvalidTransfer(message="mode ranges needs a range set (ranges_id)")
        options = request.options
        order = TransferOrder(
            transfer_id=request.transfer_id,
            mode=mode,
            source=source,
            target_path=request.target_path,
            capacity_bytes=request.capacity_bytes,
            disk_id=request.disk_id,
            snapshot_id=request.snapshot_id,
            pass_number=request.pass_number,
            ranges_id=request.ranges_id,
            queue_depth=options.queue_depth or self._defaults.queue_depth,
            chunk_bytes=options.chunk_bytes or self._defaults.chunk_bytes,
        )
        return order, self._password(request.source.vddk)

    def _password(self, vddk: pb.VddkSource) -> Secret:
        if vddk.password:
            return Secret(f"plain:{vddk.password}")
        # The configured password is sent to the configured server only.
        own = vddk.server in ("", self._defaults.server)
        return self._defaults.password if own else Secret("")

    def _source(self, source: pb.Source) -> SourceSpec | None:
        match source.WhichOneof("kind"):
            case None:
                return None
            case "nbd":
                return NbdSpec(source.nbd.uri)
            case "vddk":
                return self._vddk(source.vddk)

    def _vddk(self, vddk: pb.VddkSource) -> VddkSpec:
        defaults = self._defaults
        return VddkSpec(
            server=vddk.server or defaults.server,
            user=vddk.user or defaults.user,
            thumbprint=vddk.thumbprint or defaults.thumbprint,
            library_dir=vddk.library_dir or defaults.library_dir,
            vm_moref=vddk.vm_moref,
            snapshot_moref=vddk.snapshot_moref,
            disk_path=vddk.disk_path,
            transports=vddk.transports,
            port=vddk.port or defaults.port,
        )


def _check_rate(bytes_per_second: int) -> None:
    if bytes_per_second < 0:
        raise InvalidTransfer(message="a rate cannot be negative")
