"""An orchestrator that serves gRPC on a unix socket, with agents in memory."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from services.config import parse_config
from services.kit.channel import call, connect
from services.kit.server import serving
from services.orchestrator import server
from tests.rigs.orchestrator.agents import Memory
from tests.rigs.orchestrator.rig import spec_text
from v2c.orchestrator.v1 import orchestrator_pb2 as pb
from v2c.orchestrator.v1 import orchestrator_pb2_grpc as rpc

_CONFIG = """
vcenter: {{host: vc.example.com, user: admin, password: secret}}
migration: {{vddk_path: /vddk, control_dir: {directory}}}
cloudstack: {{endpoint: cs.example.com, api_key: key, secret_key: secret}}
cloudstack_defaults:
  {{zoneid: zone-1, clusterid: cluster-1, storageid: pool-1, networkid: net-1,
   serviceofferingid: offering-1, diskofferingid: disks-1}}
"""


_T = TypeVar("_T")


async def ask(answer: Awaitable[_T]) -> _T:
    """A unary call's answer. Raises RemoteError."""
    return await call(answer, peer="orchestrator")


class Client:
    """A client's calls, with the deadlines that the service demands."""

    def __init__(self, stub: "rpc.OrchestratorServiceAsyncStub") -> None:
        self.stub = stub

    async def submit(self, text: str, *, start: bool = True) -> pb.Migration:
        request = pb.SubmitSpecRequest(spec=text, source="spec.yaml", start=start)
        answer = await ask(self.stub.SubmitSpec(request))
        (migration,) = answer.migrations
        return migration

    async def get(self, migration_id: str) -> pb.Migration:
        request = pb.GetMigrationRequest(selector=pb.Selector(migration_id=migration_id))
        return (await ask(self.stub.GetMigration(request))).migration

    async def until(
        self, migration_id: str, fits: Callable[[pb.Migration], bool], seconds: float = 30
    ) -> pb.Migration:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            migration = await self.get(migration_id)
            if fits(migration):
                return migration
            await asyncio.sleep(0.02)
        raise AssertionError(f"not in time: {migration}")

    async def waiting(self, migration_id: str) -> pb.Migration:
        """Wait until it waits between two deltas."""
        return await self.until(
            migration_id,
            lambda m: m.stage == pb.STAGE_DELTA and m.state == pb.STATE_WAITING,
        )

    async def finalize(self, migration_id: str) -> None:
        selector = pb.Selector(migration_id=migration_id)
        request = pb.FinalizeMigrationRequest(selector=selector, now=True)
        await ask(self.stub.FinalizeMigration(request))

    async def done(self, migration_id: str) -> pb.Migration:
        return await self.until(migration_id, lambda m: m.state == pb.STATE_DONE)


@asynccontextmanager
async def orchestrator(
    directory: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Client]:
    """The orchestrator as its process composes it, with agents in memory."""
    for name in ("vmware", "disk", "cloudstack"):
        agent = getattr(memory.agents, name)
        monkeypatch.setattr(server, f"{name.capitalize()}Agent", lambda _, agent=agent: agent)
    config = parse_config(_CONFIG.format(directory=directory), "config.yaml")
    process = server._Orchestrator(config, None)

    async def register(to: grpc.aio.Server) -> Sequence[str]:
        rpc.add_OrchestratorServiceServicer_to_server(process.servicer, to)
        return ("v2c.orchestrator.v1.OrchestratorService",)

    async def start() -> None:
        await asyncio.to_thread(process.start)

    async def stop() -> None:
        await asyncio.to_thread(process.stop)

    address = f"unix:{directory}/orchestrator.sock"
    async with serving("orchestrator", address, None, register, on_start=start, on_shutdown=stop):
        channel = connect(address, None, default_timeout_seconds=10, name="orchestrator")
        try:
            yield Client(rpc.OrchestratorServiceStub(channel))
        finally:
            await channel.close()


def quick(**migration: object) -> str:
    return spec_text(finalize_settle_seconds=1, **migration)  # type: ignore[arg-type]
