"""Uvicorn inside our own event loop: bound early, announced when ready, stopped by our signals."""

import asyncio
import contextlib
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from services.kit.address import (
    Address,
    AddressInUseError,
    TcpAddress,
    UnixAddress,
    parse_address,
    private_unix_socket,
)
from services.kit.failure import Code, ServiceError

_BACKLOG = 1024
_GRACE_SECONDS = 10


class HttpsFilesInvalid(ServiceError):
    """The certificate or key for HTTPS cannot be used."""

    code = Code.FAILED_PRECONDITION
    reason = "HTTPS_FILES_INVALID"
    hint = "point --tls-certificate and --tls-key to a PEM certificate chain and its key"


@dataclass(frozen=True)
class HttpsFiles:
    """PEM files of the server's certificate chain and key; clients present the admin token."""

    certificate: Path
    key: Path

    def check(self) -> None:
        """Raises HttpsFilesInvalid when the files are missing or do not belong together."""
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key)
        except OSError as exc:  # ssl.SSLError is one
            raise HttpsFilesInvalid(
                message=f"HTTPS with {self.certificate} and {self.key}: {exc.strerror or exc}",
            ) from exc


@contextlib.contextmanager
def bound_socket(listen: str) -> Iterator[tuple[socket.socket, Address]]:
    """A listening socket and its address, with the real port for port 0.

    ``:8000`` listens on every interface, IPv4 and IPv6. Raises InvalidAddressError and
    AddressInUseError.
    """
    address = parse_address(listen)
    if isinstance(address, UnixAddress):
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
            with private_unix_socket(address):
                listener.bind(str(address.path))
            listener.listen(_BACKLOG)
            try:
                yield listener, address
            finally:
                address.path.unlink(missing_ok=True)
        return
    with contextlib.closing(_tcp_socket(address)) as listener:
        yield listener, TcpAddress(address.host, listener.getsockname()[1])


async def serve_http(
    app: ASGIApp,
    listener: socket.socket,
    https: HttpsFiles | None,
    on_ready: Callable[[], None],
) -> None:
    """Serve `app` until SIGTERM or SIGINT, then let running requests finish (at most 10 s).

    `on_ready` is called once requests are answered. A second signal ends it at once.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        ssl_certfile=str(https.certificate) if https else None,
        ssl_keyfile=str(https.key) if https else None,
    )
    server = _Server(config, on_ready)
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, on_signal)
    try:
        await server.serve(sockets=[listener])
    finally:
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(signum)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Uvicorn's own raises the signal again after a graceful stop, so that the process would
        # end by the signal instead of with status 0.
        yield


def _tcp_socket(address: TcpAddress) -> socket.socket:
    try:
        if not address.host and socket.has_dualstack_ipv6():
            return socket.create_server(
                ("::", address.port),
                family=socket.AF_INET6,
                dualstack_ipv6=True,
                backlog=_BACKLOG,
            )
        found = socket.getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return socket.create_server(
            (address.host, address.port), family=found[0][0], backlog=_BACKLOG
        )
    except OSError as exc:
        raise AddressInUseError(
            message=f"cannot listen on {address}: {os.strerror(exc.errno) if exc.errno else exc}"
        ) from exc
