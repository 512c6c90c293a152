"""DiskService: all of its parts together."""

import asyncio

from services.disk_agent import capabilities
from services.disk_agent.image_servicer import ImageServicer
from services.disk_agent.images import Images
from services.disk_agent.pools import Pools
from services.disk_agent.range_sets import RangeSets
from services.disk_agent.transfer_servicer import (
    MODES,
    Context,
    TransferDefaults,
    TransferServicer,
)
from services.disk_agent.transfers import Transfers
from v2c.disk.v1 import disk_pb2 as pb


class DiskServicer(TransferServicer, ImageServicer):
    """Serves one storage host."""

    def __init__(
        self,
        transfers: Transfers,
        ranges: RangeSets,
        defaults: TransferDefaults,
        pools: Pools,
        images: Images,
    ) -> None:
        self._transfers = transfers
        self._ranges = ranges
        self._defaults = defaults
        self._pools = pools
        self._images = images

    async def GetCapabilities(
        self, request: pb.GetCapabilitiesRequest, context: Context
    ) -> pb.GetCapabilitiesResponse:
        """Ask the host's programs."""
        found = await asyncio.to_thread(capabilities.probe)
        return pb.GetCapabilitiesResponse(
            host=found.host,
            sources=found.sources,
            transfer_modes=MODES,
            virt_v2v_version=found.virt_v2v_version,
            kvm=found.kvm,
            versions=found.versions,
        )
