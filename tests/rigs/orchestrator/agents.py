"""The three agents in memory; rules that a call breaks are listed in `World.broken`."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from services.orchestrator.ports.agents import Agents
from services.orchestrator.ports.vmware import SourceNic
from tests.rigs.orchestrator.cloudstack import MemoryCloudstack
from tests.rigs.orchestrator.storage import MemoryStorage
from tests.rigs.orchestrator.vcenter import MemoryDisk, MemoryVcenter, MemoryVm
from tests.rigs.orchestrator.world import Blocks, Crash, Recorded, World, failure, reported

__all__ = [
    "Crash",
    "Memory",
    "MemoryVm",
    "content",
    "failure",
    "machine",
    "memory_agents",
    "reported",
]


@dataclass
class Memory:
    """All three agents."""

    world: World
    vcenter: MemoryVcenter
    storage: MemoryStorage
    cloudstack: MemoryCloudstack
    agents: Agents


def memory_agents(seed: int = 1, pace: int = 7) -> Memory:
    """A world with empty agents; calls through `agents` are recorded."""
    world = World(seed)
    vcenter = MemoryVcenter(world)
    storage = MemoryStorage(world, vcenter, pace)
    cloudstack = MemoryCloudstack(world, storage)
    agents = Agents(
        Recorded("vmware", vcenter, world),
        Recorded("disk", storage, world),
        Recorded("cloudstack", cloudstack, world),
    )
    return Memory(world, vcenter, storage, cloudstack, agents)


def machine(
    name: str = "web-1", moref: str = "vm-1", disks: Sequence[int] = (24, 16), nics: int = 2
) -> MemoryVm:
    """A running machine; `disks` are the numbers of blocks of its disks."""
    return MemoryVm(
        moref,
        name,
        [MemoryDisk(2000 + n, n, count) for n, count in enumerate(disks)],
        nics=tuple(
            SourceNic(4000 + n, n, f"Network adapter {n + 1}", "VM Network", f"00:50:56:00:00:0{n}")
            for n in range(nics)
        ),
    )


def content(blocks: Blocks) -> Blocks:
    """Blocks without the zeroes, for comparing."""
    return {block: value for block, value in copy.copy(blocks).items() if value}
