"""Runs a gRPC service from its first bind to its graceful end."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import grpc
import structlog
from grpc_reflection.v1alpha import reflection as grpc_reflection

from services.kit.address import (
    Address,
    AddressInUseError,
    InvalidAddressError,
    TcpAddress,
    UnixAddress,
    parse_address,
    private_unix_socket,
)
from services.kit.health import HEALTH_SERVICE, HealthReporter
from services.kit.interceptor import RpcInterceptor
from services.kit.metrics import MetricsServer
from services.kit.processes.service import write_ready_file
from services.kit.tls import TlsFiles

Register = Callable[[grpc.aio.Server], Awaitable[Sequence[str]]]
Hook = Callable[[], Awaitable[None]]

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
MAX_METADATA_BYTES = 32 * 1024

_SERVER_OPTIONS = (
    # Two servers on one port would share its calls at random; the second one must fail instead.
    ("grpc.so_reuseport", 0),
    # Notice a client whose host is gone within a minute, so that its streams end.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A watched migration may be silent for hours; without this pings stop after two.
    ("grpc.http2.max_pings_without_data", 0),
    # Clients ping every 30 s also when idle; without this the server answers GOAWAY
    # "too_many_pings" (measured with grpcio 1.85: this is the key that it reads).
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
)

_log = structlog.stdlib.get_logger(__name__)


class TlsRequiredError(InvalidAddressError):
    """The address to listen on is reachable from other machines, and TLS is not configured."""

    reason = "TLS_REQUIRED"
    hint = "set the tls section, or listen on a unix socket or on 127.0.0.1"


@contextlib.asynccontextmanager
async def serving(
    name: str,
    listen: str,
    tls: TlsFiles | None,
    register: Register,
    *,
    grace_seconds: float = 10.0,
    metrics_listen: str | None = None,
    reflection: bool = False,
    ready_file: Path | None = None,
    on_start: Hook | None = None,
    on_shutdown: Hook | None = None,
) -> AsyncIterator[Address]:
    """Serve while the block runs; yields the bound address (with the real port for port 0).

    In this order: `register` adds servicers and returns their full service names; the server
    listens, its health is NOT_SERVING; `on_start` runs (recovering state, first connections);
    health becomes SERVING and `ready_file` is written. When the block ends: health becomes
    NOT_SERVING; `on_shutdown` runs for at most `grace_seconds`, to checkpoint and end work; open
    streams end with SHUTTING_DOWN; unary calls have `grace_seconds` to finish.

    The arguments are those of `run_service`.

    Raises InvalidAddressError, TlsRequiredError, AddressInUseError, TlsFilesError and whatever
    `register` and `on_start` raise; nothing is left bound then. Once `register` has returned,
    `on_shutdown` runs whatever happens, so that it can release what `register` opened.
    """
    address = parse_address(listen)
    interceptor = RpcInterceptor()
    health = HealthReporter()
    if ready_file is not None:
        await asyncio.to_thread(ready_file.unlink, missing_ok=True)  # left by an earlier process
    server = grpc.aio.server(interceptors=(interceptor,), options=_SERVER_OPTIONS)
    services = tuple(await register(server))
    async with contextlib.AsyncExitStack() as stack:
        shut_down = _once(on_shutdown, grace_seconds)
        stack.push_async_callback(shut_down)
        health.add_to(server)
        await health.starting(services)
        if reflection:
            shown = (*services, HEALTH_SERVICE, grpc_reflection.SERVICE_NAME)
            grpc_reflection.enable_server_reflection(shown, server)
        bound = _bind(server, address, tls)
        if isinstance(bound, UnixAddress):
            stack.callback(bound.path.unlink, missing_ok=True)
        stack.push_async_callback(server.stop, None)
        if metrics_listen is not None:
            # Closing waits for the server thread's poll: not on the event loop.
            stack.push_async_callback(asyncio.to_thread, MetricsServer(metrics_listen).close)
        await server.start()
        if on_start is not None:
            await on_start()
        await health.serving()
        if ready_file is not None:
            write_ready_file(ready_file, str(bound))
            stack.callback(ready_file.unlink, missing_ok=True)
        _log.info("serving", action="service.serving", service_name=name, address=str(bound))
        try:
            yield bound
        finally:
            _log.info("stopping", action="service.stopping", service_name=name)
            await health.stopping()
            await shut_down()
            interceptor.end_streams()
            await server.stop(grace_seconds)
            _log.info("stopped", action="service.stopped", service_name=name)


async def run_service(
    name: str,
    listen: str,
    tls: TlsFiles | None,
    register: Register,
    *,
    grace_seconds: float = 10.0,
    metrics_listen: str | None = None,
    reflection: bool = False,
    ready_file: Path | None = None,
    on_start: Hook | None = None,
    on_shutdown: Hook | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then stop gracefully (see `serving`).

    name: what the process is called in logs.
    listen: ``unix:/path`` (socket 0600, stale ones replaced), ``host:port``, ``[::1]:port``;
        port 0 takes a free one. Without TLS only unix sockets and loopback are allowed.
    tls: this service's files, or None for plain gRPC. With it every client needs a certificate.
    register: ``async (server) -> service names``: the composition root.
    grace_seconds: how long running calls may take after the signal; a second signal ends the wait.
    metrics_listen: ``host:port`` for ``GET /metrics``, or None.
    reflection: whether a client such as grpcurl can read the service's definition.
    ready_file: gets ``{"address", "pid"}`` when serving (see `processes.service.read_ready_file`)
        and is removed at the end.
    on_start, on_shutdown: see `serving`.

    Must be called in the main thread, where signals arrive.
    """
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()
    current = asyncio.current_task()

    def on_signal() -> None:
        if signalled.is_set() and current is not None:
            current.cancel()  # the second signal: stop without waiting
        signalled.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, on_signal)
    try:
        async with serving(
            name,
            listen,
            tls,
            register,
            grace_seconds=grace_seconds,
            metrics_listen=metrics_listen,
            reflection=reflection,
            ready_file=ready_file,
            on_start=on_start,
            on_shutdown=on_shutdown,
        ):
            await signalled.wait()
    finally:
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(signum)


def _bind(server: grpc.aio.Server, address: Address, tls: TlsFiles | None) -> Address:
    if tls is None and not address.is_local:
        raise TlsRequiredError(
            message=f"{address} is reachable from other machines but tls is not set"
        )
    try:
        if isinstance(address, UnixAddress):
            with private_unix_socket(address):
                _add_port(server, str(address), tls)
            return address
        return TcpAddress(address.host, _add_port(server, address.bind_target, tls))
    except RuntimeError as exc:  # gRPC raises nothing more specific
        raise AddressInUseError(
            message=f"cannot listen on {address}: it is in use, or not an address of this host"
        ) from exc


def _add_port(server: grpc.aio.Server, target: str, tls: TlsFiles | None) -> int:
    if tls is None:
        return server.add_insecure_port(target)
    return server.add_secure_port(target, tls.server_credentials())


def _once(hook: Hook | None, limit_seconds: float) -> Hook:
    """Run `hook` at the first call only, with a time limit, and log its errors."""
    pending = [hook] if hook is not None else []

    async def run() -> None:
        if not pending:
            return
        try:
            async with asyncio.timeout(limit_seconds):
                await pending.pop()()
        except Exception as exc:
            # The stop must continue: no service depends on its hook to keep its state consistent.
            _log.error("shutdown hook failed", action="service.shutdown_hook_failed", exc_info=exc)

    return run
