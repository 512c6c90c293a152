"""The HTTP adapter against servers that are not CloudStack or not trusted."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from services.cloudstack_agent.client.http_api import Account, HttpApi
from services.cloudstack_agent.errors import CloudStackAnswerInvalid, CloudStackUntrusted

ACCOUNT = Account("key", "secret")


class Elsewhere(BaseHTTPRequestHandler):
    """Redirects every request to https."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(302)
        self.send_header("Location", "https://elsewhere.example/client/api")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    directory = tmp_path_factory.mktemp("tls")
    key, certificate = directory / "key.pem", directory / "cert.pem"
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=lab"
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    argv = ["openssl", *options.split(), *names, *files]
    subprocess.run(argv, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate


async def test_a_redirect_is_named_and_not_followed() -> None:
    with serving() as port:
        async with HttpApi(
            f"http://127.0.0.1:{port}/client/api", ACCOUNT, timeout_seconds=5
        ) as api:
            with pytest.raises(CloudStackAnswerInvalid, match="points to https://elsewhere"):
                await api.call("listZones", {})


async def test_an_unknown_certificate_is_not_trusted(
    self_signed: tuple[ssl.SSLContext, Path],
) -> None:
    with serving(self_signed[0]) as port:
        async with HttpApi(
            f"https://127.0.0.1:{port}/client/api", ACCOUNT, timeout_seconds=5
        ) as api:
            with pytest.raises(CloudStackUntrusted):
                await api.call("listZones", {})


async def test_a_private_ca_is_trusted_by_the_environment(
    self_signed: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, certificate = self_signed
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with serving(context) as port:
        async with HttpApi(
            f"https://127.0.0.1:{port}/client/api", ACCOUNT, timeout_seconds=5
        ) as api:
            with pytest.raises(CloudStackAnswerInvalid):  # past the handshake
                await api.call("listZones", {})


def test_the_secret_is_not_shown() -> None:
    assert "secret" not in repr(Account("key", "secret")).replace("secret_key", "")
