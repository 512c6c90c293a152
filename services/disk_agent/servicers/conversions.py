"""Conversions: proto to domain and back, nothing else."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

import grpc

from services.disk_agent.conversions.conversion import ConversionRequest
from services.disk_agent.conversions.registry import Conversions
from services.disk_agent.servicers.messages import conversion_to_proto
from v2c.disk.v1 import disk_pb2 as pb
from v2c.disk.v1 import disk_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class ConversionServicer(disk_pb2_grpc.DiskServiceServicer):
    """The part of DiskService about conversions; `_virtio_iso` is used if a request names none."""

    _conversions: Conversions
    _virtio_iso: Path | None

    async def StartConversion(
        self, request: pb.StartConversionRequest, context: Context
    ) -> pb.StartConversionResponse:
        """Start a conversion, attach to it, or start it again."""
        wanted = ConversionRequest(
            conversion_id=request.conversion_id,
            image_paths=tuple(Path(path) for path in request.image_paths),
            all_disks=request.all_disks,
            virtio_iso=Path(request.virtio_iso) if request.virtio_iso else self._virtio_iso,
            timeout_seconds=request.timeout_seconds,
        )
        conversion, existed = await self._conversions.start(wanted, epoch=request.epoch)
        return pb.StartConversionResponse(
            conversion=conversion_to_proto(conversion), existed=existed
        )

    async def GetConversion(
        self, request: pb.GetConversionRequest, context: Context
    ) -> pb.GetConversionResponse:
        """Return one conversion."""
        conversion = self._conversions.get(request.conversion_id)
        return pb.GetConversionResponse(conversion=conversion_to_proto(conversion))

    async def ListConversions(
        self, request: pb.ListConversionsRequest, context: Context
    ) -> pb.ListConversionsResponse:
        """Return all conversions."""
        found = self._conversions.list()
        return pb.ListConversionsResponse(conversions=[conversion_to_proto(each) for each in found])

    async def CancelConversion(
        self, request: pb.CancelConversionRequest, context: Context
    ) -> pb.CancelConversionResponse:
        """End a conversion; none of its processes runs any more when this returns."""
        conversion = await self._conversions.cancel(request.conversion_id, epoch=request.epoch)
        return pb.CancelConversionResponse(conversion=conversion_to_proto(conversion))

    async def WatchConversion(
        self, request: pb.WatchConversionRequest, context: Context
    ) -> AsyncIterator[pb.WatchConversionResponse]:
        """Stream snapshots of a conversion until it ends."""
        watched = self._conversions.watch(request.conversion_id, request.after_revision)
        async for conversion in watched:
            yield pb.WatchConversionResponse(conversion=conversion_to_proto(conversion))
