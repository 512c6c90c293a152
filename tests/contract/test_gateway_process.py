import asyncio
import os
import signal
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from services.kit.pki import create_pki, tls_files
from services.kit.processes.service import read_ready_file
from services.kit.server import serving
from tests.rigs.fakes.gateway_orchestrator import FakeOrchestrator, migration

CONFIG = """
vcenter: {{host: vc.example, user: root, password: not-used-here}}
migration: {{vddk_path: /opt/vddk, control_dir: {directory}/control}}
cloudstack: {{endpoint: cs.example, api_key: not-used, secret_key: not-used}}
agents: {{orchestrator: "unix:{directory}/orchestrator.sock"}}
"""
TLS = "tls: {{ca: {pki}/ca.crt, certificate: {pki}/host.crt, key: {pki}/host.key}}\n"


class Gateway:
    """A gateway process of its own, as a supervisor starts it."""

    def __init__(self, directory: Path, *arguments: str, environment: dict[str, str] | None = None):
        self._ready_file = directory / "gateway.json"
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gateway"),
                *("--config", str(directory / "config.yaml")),
                *("--ready-file", str(self._ready_file)),
                *arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    async def address(self) -> str:
        return await asyncio.to_thread(self._wait)

    def _wait(self) -> str:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if (ready := read_ready_file(self._ready_file)) is not None:
                assert ready.pid == self.process.pid
                return ready.address
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)
        raise AssertionError("not ready in time")

    async def stop(self) -> tuple[str, str]:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.communicate, timeout=20)


Start = Callable[..., Gateway]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Gateway] = []

    def begin(*arguments: str, environment: dict[str, str] | None = None) -> Gateway:
        started.append(Gateway(tmp_path, *arguments, environment=environment))
        return started[-1]

    yield begin
    for gateway in started:
        if gateway.process.poll() is None:
            gateway.process.kill()
            gateway.process.communicate()


@pytest.fixture
async def orchestrator(tmp_path: Path) -> AsyncIterator[FakeOrchestrator]:
    (tmp_path / "config.yaml").write_text(CONFIG.format(directory=tmp_path))
    fake = FakeOrchestrator()  # type: ignore[abstract]  # the rest answers UNIMPLEMENTED
    async with serving("orchestrator", f"unix:{tmp_path}/orchestrator.sock", None, fake.register):
        yield fake


def _token_in(stdout: str) -> str:
    return stdout.split("keep it): ")[1].split()[0]


async def test_the_token_is_printed_once_and_kept_as_a_hash(
    start: Start, orchestrator: FakeOrchestrator, tmp_path: Path
) -> None:
    first = start("--listen", "127.0.0.1:0")
    await first.address()
    stdout, stderr = await first.stop()
    assert first.process.returncode == 0, stderr
    token = _token_in(stdout)
    assert token not in stderr
    stored = tmp_path / "control" / "gateway" / "admin_token.sha256"
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert stat.S_IMODE(stored.parent.stat().st_mode) == 0o700
    assert token not in stored.read_text()
    assert not (tmp_path / "gateway.json").exists()

    orchestrator.stored = [migration(1, "web", "vm-1")]
    second = start("--listen", "127.0.0.1:0")
    async with httpx.AsyncClient(base_url=f"http://{await second.address()}") as client:
        assert (await client.get("/health")).json() == {"status": "ok"}
        assert (await client.get("/migration/jobs")).status_code == 401
        client.headers["Authorization"] = f"Bearer {token}"
        assert (await client.get("/migration/jobs")).json()["count"] == 1
    stdout, stderr = await second.stop()
    assert (stdout, second.process.returncode) == ("", 0), stderr


async def test_an_operator_may_choose_the_token(
    start: Start, orchestrator: FakeOrchestrator, tmp_path: Path
) -> None:
    token = "chosen-by-an-operator-in-ci"
    gateway = start("--listen", "127.0.0.1:0", environment={"V2C_ADMIN_TOKEN": token})
    async with httpx.AsyncClient(
        base_url=f"http://{await gateway.address()}", headers={"Authorization": f"Bearer {token}"}
    ) as client:
        assert (await client.get("/migration/jobs")).status_code == 200
    stdout, stderr = await gateway.stop()
    assert token not in stdout + stderr
    assert not (tmp_path / "control" / "gateway").exists()
    weak = start("--listen", "127.0.0.1:0", environment={"V2C_ADMIN_TOKEN": "admin"})
    _, stderr = await asyncio.to_thread(weak.process.communicate, timeout=20)
    assert weak.process.returncode == 1
    assert "V2C_ADMIN_TOKEN has fewer than 20 characters" in stderr


async def test_https_in_front_and_mutual_tls_behind(start: Start, tmp_path: Path) -> None:
    pki = tmp_path / "pki"
    create_pki(pki, ["host"], [])
    (tmp_path / "config.yaml").write_text(CONFIG.format(directory=tmp_path) + TLS.format(pki=pki))
    fake = FakeOrchestrator()  # type: ignore[abstract]  # the rest answers UNIMPLEMENTED
    listen = f"unix:{tmp_path}/orchestrator.sock"
    async with serving("orchestrator", listen, tls_files(pki, "host"), fake.register):
        gateway = start(
            *("--listen", "127.0.0.1:0"),
            *("--tls-certificate", str(pki / "host.crt"), "--tls-key", str(pki / "host.key")),
        )
        trust = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        async with httpx.AsyncClient(
            base_url=f"https://{await gateway.address()}", verify=trust
        ) as client:
            assert (await client.get("/health")).json() == {"status": "ok"}
        await gateway.stop()
        assert gateway.process.returncode == 0


async def test_a_unix_socket_for_a_proxy_on_the_same_host(
    start: Start, orchestrator: FakeOrchestrator, tmp_path: Path
) -> None:
    socket = tmp_path / "run" / "gateway.sock"
    gateway = start("--listen", f"unix:{socket}")
    assert await gateway.address() == f"unix:{socket}"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    transport = httpx.AsyncHTTPTransport(uds=str(socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        assert (await client.get("/health")).status_code == 200
    await gateway.stop()
    assert not socket.exists()


async def test_a_taken_port_is_one_readable_paragraph(
    start: Start, orchestrator: FakeOrchestrator
) -> None:
    first = start("--listen", "127.0.0.1:0")
    address = await first.address()
    second = start("--listen", address, "--log-format", "none")
    stdout, stderr = await asyncio.to_thread(second.process.communicate, timeout=20)
    assert second.process.returncode == 1
    assert stderr == (
        f"gateway: cannot listen on {address}: Address already in use "
        "(stop the other process or choose another address)\n"
    )
    assert stdout == ""
    await first.stop()


async def test_certificate_and_key_go_together_and_are_checked(
    start: Start, orchestrator: FakeOrchestrator, tmp_path: Path
) -> None:
    alone = start("--tls-key", "x")
    _, stderr = await asyncio.to_thread(alone.process.communicate, timeout=20)
    assert (alone.process.returncode, "go together" in stderr) == (2, True)
    missing = start("--tls-key", "x.key", "--tls-certificate", "x.crt")
    _, stderr = await asyncio.to_thread(missing.process.communicate, timeout=20)
    assert missing.process.returncode == 1
    assert "HTTPS with x.crt and x.key: No such file or directory" in stderr
