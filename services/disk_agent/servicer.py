"""DiskService: all of its parts together."""

import asyncio

from v2c.disk.v1 import disk_pb2 as pb

from services.disk_agent import capabilities
from services.disk_agent.range_sets import RangeSets
from services.disk_agent.transfer_servicer import (
    MODES,
    Context,
    TransferDefaults,
    TransferServicer,
)
from services.disk_agent.transfers import Transfers


class DiskServicer(TransferServicer):
    """Serves one storage host."""

    def __init__(self, transfers: Transfers, ranges: RangeSets, defaults: TransferDefaults) -> None:
        self._transfers = transfers
        self._ranges = ranges
        self._defaults = defaults

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
