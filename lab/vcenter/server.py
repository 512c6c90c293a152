"""The simulator's HTTPS server: a thread per connection, keep-alive, SOAP at /sdk."""

from __future__ import annotations

import logging
import re
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from pyVmomi import vmodl
from pyVmomi.VmomiSupport import GetServiceVersions, versionIdMap

from lab.vcenter.dispatch import Dispatcher
from lab.vcenter.soap import (
    SERVER_VERSION,
    BadRequestError,
    fault_response,
    parse_request,
    response,
)
from lab.vcenter.world.faults import DropConnection

_log = logging.getLogger(__name__)

_COOKIE = re.compile(r'vmware_soap_session="?([^";]+)')
_MAX_REQUEST_BYTES = 16 * 1024 * 1024
_HANDSHAKE_SECONDS = 10


class VcenterServer:
    """A listening server. Use as a context manager, or start and close it."""

    def __init__(self, dispatcher: Dispatcher, host: str, port: int, pem: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(pem)
        self._server = _Server((host, port), _handler(dispatcher), context)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.1},
            name="vcenter https",
            daemon=True,
        )

    def start(self) -> None:
        """Start answering."""
        self._thread.start()

    def close(self) -> None:
        """Stop accepting and wait for the accepting thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], handler: type[Any], context: ssl.SSLContext
    ) -> None:
        super().__init__(address, handler)
        self._context = context

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Runs in the connection's thread, so that a slow handshake delays no other client."""
        request.settimeout(_HANDSHAKE_SECONDS)
        try:
            with self._context.wrap_socket(request, server_side=True) as wrapped:
                wrapped.settimeout(None)
                super().finish_request(wrapped, client_address)
        except (ssl.SSLError, OSError) as error:
            # The client refused the certificate or disconnected.
            _log.debug("connection of %s ended: %s", client_address, error)


def _handler(dispatcher: Dispatcher) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version = "LabVcenter"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_GET(self) -> None:
            if self.path.split("?")[0] in (
                "/sdk/vimServiceVersions.xml",
                "/sdk/vimServiceVersions",
            ):
                self._send(200, _versions())
            else:
                self._send(404, b"<html>404 Not Found</html>")

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            if length > _MAX_REQUEST_BYTES:
                self.close_connection = True
                self._send(413, b"")
                return
            body = self.rfile.read(length)
            if self.path.rstrip("/") != "/sdk":
                self._send(404, b"")
                return
            try:
                self._answer(body)
            except DropConnection:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

        def _answer(self, body: bytes) -> None:
            version = SERVER_VERSION
            try:
                request = parse_request(body, self.headers.get("SOAPAction", ""))
                version = request.version
                result, cookie = dispatcher.call(
                    request,
                    self._session_key(),
                    self.client_address[0],
                    self.headers.get("User-Agent", ""),
                )
                answer = response(request.method, result, request.info, version)
            except BadRequestError as error:
                self._send(400, str(error).encode())
            except vmodl.MethodFault as fault:
                self._send(500, fault_response(fault, version))
            else:
                self._send(200, answer, cookie)

        def _session_key(self) -> str | None:
            found = _COOKIE.search(self.headers.get("Cookie", ""))
            return found.group(1) if found else None

        def _send(self, status: int, body: bytes, cookie: str | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/xml; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-cache")
            if cookie:
                value = f'vmware_soap_session="{cookie}"; Path=/; HttpOnly; Secure; SameSite=Lax'
                self.send_header("Set-Cookie", value)
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:
            _log.debug("%s %s", self.client_address[0], format % args)

    return Handler


def _versions() -> bytes:
    """The supported API versions: 8.0.3.0 and all earlier ones."""
    known = [v for v in GetServiceVersions("vim25") if v.startswith("vim.version.")]
    prior = known[known.index(SERVER_VERSION) + 1 :]
    listed = "".join(f"<version>{versionIdMap[version]}</version>" for version in prior)
    return (
        '<?xml version="1.0" encoding="UTF-8" ?><namespaces version="1.0"><namespace>'
        f"<name>urn:vim25</name><version>{versionIdMap[SERVER_VERSION]}</version>"
        f"<priorVersions>{listed}</priorVersions></namespace></namespaces>"
    ).encode()
