"""DiskService: joins its parts, and serves what belongs to none of them."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from services.disk_agent.capabilities import Capabilities
from services.disk_agent.conversions.registry import Conversions
from services.disk_agent.retention import Retention
from services.disk_agent.servicers.conversions import ConversionServicer
from services.disk_agent.servicers.images import ImageServicer
from services.disk_agent.servicers.messages import MODES
from services.disk_agent.servicers.transfers import (
    Context,
    TransferDefaults,
    TransferServicer,
)
from services.disk_agent.storage.images import Images
from services.disk_agent.storage.pools import Pools
from services.disk_agent.transfers.registry import Transfers
from services.disk_agent.worker.range_sets import RangeSets
from v2c.disk.v1 import disk_pb2 as pb


class DiskServicer(TransferServicer, ImageServicer, ConversionServicer):
    """The DiskService of one storage host."""

    def __init__(
        self,
        *,
        transfers: Transfers,
        ranges: RangeSets,
        defaults: TransferDefaults,
        pools: Pools,
        images: Images,
        conversions: Conversions,
        retention: Retention,
        virtio_iso: Path | None,
        probe: Callable[[], Capabilities],
    ) -> None:
        """`probe` tests what the host can do; it blocks."""
        self._transfers = transfers
        self._ranges = ranges
        self._defaults = defaults
        self._pools = pools
        self._images = images
        self._conversions = conversions
        self._retention = retention
        self._virtio_iso = virtio_iso
        self._probe = probe

    async def GetCapabilities(
        self, request: pb.GetCapabilitiesRequest, context: Context
    ) -> pb.GetCapabilitiesResponse:
        """Return what this host and its programs can do."""
        found = await asyncio.to_thread(self._probe)
        return pb.GetCapabilitiesResponse(
            host=found.host,
            sources=found.sources,
            transfer_modes=MODES,
            virt_v2v_version=found.virt_v2v_version,
            kvm=found.kvm,
            versions=found.versions,
        )

    async def PruneRecords(
        self, request: pb.PruneRecordsRequest, context: Context
    ) -> pb.PruneRecordsResponse:
        """Remove the records of work that ended before a time (see `Retention`)."""
        pruned = await self._retention.prune(
            request.image_paths_in_use,
            request.ranges_ids_in_use,
            request.ended_before.ToMilliseconds() / 1000,
        )
        return pb.PruneRecordsResponse(
            transfer_count=pruned.transfers,
            conversion_count=pruned.conversions,
            ranges_count=pruned.range_sets,
        )
