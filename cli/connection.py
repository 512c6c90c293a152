"""Finding and calling the orchestrator."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from cli.errors import CommandError
from services.config import Config, VmSpec
from services.config.service_args import tls_files
from services.kit.address import TcpAddress, UnixAddress, parse_target
from services.kit.channel import await_serving, connect
from services.kit.errors import RemoteError
from v2c.orchestrator.v1 import orchestrator_pb2 as pb
from v2c.orchestrator.v1 import orchestrator_pb2_grpc as pb_grpc

__all__ = [
    "PAGE_SIZE",
    "PEER",
    "Stub",
    "answering",
    "is_local",
    "orchestrator",
    "refuse_remote",
    "require_server",
    "selector",
]

PEER = "the orchestrator"
# Of lists that are read to their end: the most that a page holds unless asked for more.
PAGE_SIZE = 500
if TYPE_CHECKING:  # The stubs' type file knows more classes than the module has.
    Stub = pb_grpc.OrchestratorServiceAsyncStub
else:
    Stub = pb_grpc.OrchestratorServiceStub

_CALL_SECONDS = 30.0
# A healthy server on this host or in this data centre answers in milliseconds.
_PROBE_SECONDS = 2.0


def is_local(address: str) -> bool:
    """Whether the address leads to this host only."""
    return parse_target(address).is_local


async def answering(config: Config, address: str) -> bool:
    """Whether an orchestrator serves at `address`."""
    target = parse_target(address)
    if not await _accepts(target):
        return False
    try:
        await await_serving(address, tls_files(config), timeout_seconds=_PROBE_SECONDS, name=PEER)
    except RemoteError:
        return False
    return True


async def require_server(config: Config, server: str | None) -> str:
    """The address of a serving orchestrator. Raises CommandError when none answers."""
    address = server or config.agents.orchestrator
    if await answering(config, address):
        return address
    raise CommandError(
        f"no orchestrator answers at {address}",
        "Start `v2c serve` in another terminal, or give a server's address with --server.",
    )


@contextlib.asynccontextmanager
async def orchestrator(config: Config, address: str) -> AsyncIterator[Stub]:
    """A stub for the orchestrator at `address`; put calls in `services.kit.channel.call`."""
    async with connect(
        address, tls_files(config), default_timeout_seconds=_CALL_SECONDS, name=PEER
    ) as channel:
        yield pb_grpc.OrchestratorServiceStub(channel)


def selector(spec: VmSpec) -> pb.Selector:
    """The migration of a spec's VM: by moref where the spec has one, by name otherwise."""
    if spec.vm.moref:
        return pb.Selector(vm_moref=spec.vm.moref)
    return pb.Selector(vm_name=spec.vm.name)


def refuse_remote(address: str) -> None:
    """Raises CommandError when `address` is another host's: nothing can be started there."""
    target = parse_target(address)
    if isinstance(target, TcpAddress) and not target.is_local:
        raise CommandError(
            f"no orchestrator answers at {address}, which is on another host",
            "Start `v2c serve` there, or set agents.orchestrator to a unix socket to run here.",
        )


async def _accepts(target: UnixAddress | TcpAddress) -> bool:
    """Whether anything listens: a refusal comes at once, where gRPC would try again and again."""
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            if isinstance(target, UnixAddress):
                _, writer = await asyncio.open_unix_connection(target.path)
            else:
                _, writer = await asyncio.open_connection(target.host, target.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
