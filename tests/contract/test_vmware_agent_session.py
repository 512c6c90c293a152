"""The session against the lab's vCenter over HTTPS: trust, login, expiry, lost connections."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.parsers.expat import ExpatError

import pytest

from lab.scenarios import built_in
from lab.vcenter.certificate import ensure_certificate
from services.kit.failure import Code, ServiceError
from services.vmware_agent.errors import (
    VCenterFault,
    VCenterLoginFailed,
    VCenterPermissionDenied,
    VCenterUnreachable,
    VCenterUntrusted,
)
from services.vmware_agent.ports import SystemClock
from services.vmware_agent.snapshots import create_snapshot
from services.vmware_agent.vcenter.session import (
    KEEP_ALIVE_SECONDS,
    REFUSED_LOGIN_PAUSE_SECONDS,
    Connection,
    Endpoint,
    Session,
)
from services.vmware_agent.vcenter.trust import Trust
from services.vmware_agent.vcenter.vmomi import touch
from tests.rigs.agents.vmware import (
    LabVCenter,
    QuickClock,
    connected,
    running_vcenter,
    without_content,
)
from tests.rigs.fakes.vcenter import FakeClock

CLOCK = QuickClock()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[LabVCenter]:
    with running_vcenter(tmp_path, without_content(built_in("small"))) as running:
        yield running


def logins(lab: LabVCenter) -> int:
    return len(lab.sessions.all())


async def test_any_way_of_writing_the_pinned_thumbprint(lab: LabVCenter) -> None:
    certificate = lab.certificate
    for thumbprint in (
        certificate.thumbprint_sha1,
        certificate.thumbprint_sha1.lower().replace(":", ""),
        certificate.thumbprint_sha256,
        certificate.thumbprint_sha256.lower(),
    ):
        async with connected(lab.endpoint(trust=Trust(thumbprint=thumbprint))) as vcenter:
            assert (await vcenter.about()).thumbprint_sha1 == certificate.thumbprint_sha1


@pytest.mark.parametrize("kind", ["ca_file", "insecure"])
async def test_other_ways_of_trust(lab: LabVCenter, kind: str) -> None:
    trust = Trust(ca_file=lab.certificate.ca_file) if kind == "ca_file" else Trust(insecure=True)
    async with connected(lab.endpoint(trust=trust)) as vcenter:
        about = await vcenter.about()
    assert about.api_version == "8.0.3.0"
    assert about.instance_uuid == lab.world.inventory.instance_uuid
    assert about.thumbprint_sha1 == lab.certificate.thumbprint_sha1


async def test_a_wrong_thumbprint_never_sees_the_password(lab: LabVCenter) -> None:
    wrong = "00" * 32
    async with connected(lab.endpoint(trust=Trust(thumbprint=wrong))) as vcenter:
        with pytest.raises(VCenterUntrusted) as caught:
            await vcenter.about()
    assert caught.value.metadata["found"] == lab.certificate.thumbprint_sha256
    assert logins(lab) == 0


@pytest.mark.parametrize(
    ("trust", "expected"),
    [
        (Trust(), "is not trusted"),
        (Trust(thumbprint="abc"), "neither SHA-1"),
        (Trust(ca_file=Path("/nonexistent/ca.pem")), "/nonexistent/ca.pem cannot be used"),
    ],
)
async def test_an_untrusted_certificate_is_refused(
    lab: LabVCenter, trust: Trust, expected: str
) -> None:
    async with connected(lab.endpoint(trust=trust)) as vcenter:
        with pytest.raises(VCenterUntrusted, match=expected) as caught:
            await vcenter.about()
    assert "vcenter." in caught.value.hint
    assert not caught.value.retryable


async def test_a_wrong_password_is_tried_once_and_not_again_at_once(lab: LabVCenter) -> None:
    clock = FakeClock()
    lab.injector.add("Login", delay_seconds=0.001, count=2)
    async with connected(lab.endpoint(password="wrong"), clock) as vcenter:
        for _ in range(5):
            with pytest.raises(VCenterLoginFailed) as caught:
                await vcenter.about()
        assert len(lab.injector.all()) == 1, "one login only, or the account would be locked"
        clock.now += REFUSED_LOGIN_PAUSE_SECONDS + 1
        with pytest.raises(VCenterLoginFailed):
            await vcenter.about()
        assert lab.injector.all() == []
    error = caught.value
    assert "administrator@vsphere.local" in error.message
    assert f"127.0.0.1:{lab.port}" in error.message
    assert "vcenter.password" in error.hint
    assert "wrong" not in error.message
    assert not error.retryable


async def test_a_port_without_a_listener_is_unavailable_and_retryable() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        endpoint = Endpoint("127.0.0.1", "u", "p", bound.getsockname()[1], Trust(insecure=True))
        async with connected(endpoint) as vcenter:
            with pytest.raises(VCenterUnreachable, match="does not answer") as caught:
                await vcenter.about()
    assert caught.value.code is Code.UNAVAILABLE
    assert caught.value.retryable


async def test_a_name_that_does_not_resolve_is_unavailable() -> None:
    endpoint = Endpoint("vcenter.invalid", "u", "p", trust=Trust(thumbprint="00" * 20))
    async with connected(endpoint) as vcenter:
        with pytest.raises(VCenterUnreachable, match=r"vcenter\.invalid:443"):
            await vcenter.about()


async def test_many_calls_to_a_vcenter_that_hangs_wait_for_one_timeout() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = Endpoint("127.0.0.1", "u", "p", silent.getsockname()[1], Trust(insecure=True))
        session = Session(endpoint, SystemClock(), connect_timeout_seconds=0.3)
        started = time.monotonic()
        calls = (session.run("reading", lambda connection: None) for _ in range(8))
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in errors} == {VCenterUnreachable}
        assert time.monotonic() - started < 1.2
        await session.close()


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [(503, VCenterUnreachable, "503"), (404, VCenterFault, "no vSphere server")],
)
async def test_a_web_server_that_is_no_running_vcenter(
    tmp_path: Path, status: int, kind: type[ServiceError], expected: str
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    certificate = ensure_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.key_and_certificate)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        trust = Trust(thumbprint=certificate.thumbprint_sha1)
        async with connected(Endpoint("127.0.0.1", "u", "p", server.server_port, trust)) as vcenter:
            with pytest.raises(kind, match=expected):
                await vcenter.about()
        server.shutdown()
        thread.join()


async def test_an_answer_cut_short_is_a_broken_connection(lab: LabVCenter) -> None:
    session = Session(lab.endpoint(), SystemClock())
    answers: list[Exception | None] = [ExpatError("no element found"), None]

    def parse(_connection: Connection) -> str:
        error = answers.pop(0)
        if error is not None:
            raise error
        return "whole"

    try:
        assert await session.run("reading", parse) == "whole"
        answers += [ExpatError("no element found")]
        with pytest.raises(VCenterUnreachable):
            await session.run("changing", parse, repeat=False)
    finally:
        await session.close()


async def test_an_expired_session_is_renewed_unseen(lab: LabVCenter) -> None:
    async with connected(lab.endpoint()) as vcenter:
        before = await vcenter.list_entries()
        lab.sessions.expire_all()
        # The inventory needs a view: NotAuthenticated comes as an exception.
        assert await vcenter.list_entries() == before
        lab.sessions.expire_all()
        # Known objects are read directly: NotAuthenticated hides in missingSet.
        assert len(await vcenter.get_vms([one.moref for one in before])) == len(before)


async def test_a_session_that_expires_between_two_pages(lab: LabVCenter) -> None:
    lab.world.settings.max_page_objects = 3
    async with connected(lab.endpoint()) as vcenter:
        before = await vcenter.list_entries()
        # The second page is asked for late enough for the session to end before it.
        lab.injector.add("ContinueRetrievePropertiesEx", "NotAuthenticated", skip=1)
        assert await vcenter.list_entries() == before


async def test_many_calls_at_an_expiry_log_in_once(lab: LabVCenter) -> None:
    async with connected(lab.endpoint()) as vcenter:
        moref = lab.vm("linux-bios").moref
        await vcenter.get_vm(moref)
        lab.sessions.expire_all()
        found = await asyncio.gather(*(vcenter.get_vm(moref) for _ in range(20)))
        assert {one.name for one in found} == {"linux-bios"}
        assert logins(lab) == 1


async def test_a_session_vcenter_never_accepts_ends_in_an_error(lab: LabVCenter) -> None:
    lab.injector.add("CreateContainerView", "NotAuthenticated", count=0)
    async with connected(lab.endpoint()) as vcenter:
        with pytest.raises(VCenterLoginFailed):
            await vcenter.list_entries()


async def test_a_read_survives_a_dropped_connection(lab: LabVCenter) -> None:
    async with connected(lab.endpoint()) as vcenter:
        await vcenter.list_entries()
        lab.injector.add("RetrievePropertiesEx", "ConnectionDropped")
        assert await vcenter.list_entries()
        lab.injector.add("RetrievePropertiesEx", "ConnectionDropped", count=2)
        with pytest.raises(VCenterUnreachable):
            await vcenter.list_entries()


async def test_a_change_whose_answer_is_lost_is_not_repeated_blindly(lab: LabVCenter) -> None:
    moref = lab.vm("linux-bios").moref
    async with connected(lab.endpoint()) as vcenter:
        lab.injector.add("CreateSnapshot_Task", "ConnectionDropped")
        with pytest.raises(VCenterUnreachable):
            await create_snapshot(vcenter, CLOCK, moref, "v2c-1", timeout_seconds=10)
        again = await create_snapshot(vcenter, CLOCK, moref, "v2c-1", timeout_seconds=10)
    assert again.existed
    assert [one.name for one in lab.vm("linux-bios").snapshots] == ["v2c-1"]


async def test_keep_alive_touches_the_session_and_survives_an_outage(lab: LabVCenter) -> None:
    session = Session(lab.endpoint(), clock := ReleasedClock())
    await session.run("logging in", lambda connection: None)
    keeper = asyncio.create_task(session.keep_alive())
    try:
        (before,) = (one.calls for one in lab.sessions.all())
        await clock.release()
        assert [one.calls for one in lab.sessions.all()] == [before + 1]
        lab.injector.add("CurrentTime", "ConnectionDropped", count=2)
        await clock.release()
        lab.sessions.expire_all()
        await clock.release()
        assert logins(lab) == 1
        assert set(clock.slept) == {KEEP_ALIVE_SECONDS}
    finally:
        keeper.cancel()
        await session.close()


async def test_closing_logs_out(lab: LabVCenter) -> None:
    async with connected(lab.endpoint()) as vcenter:
        await vcenter.about()
        assert logins(lab) == 1
    assert logins(lab) == 0


async def test_closing_does_not_wait_for_a_vcenter_that_hangs(lab: LabVCenter) -> None:
    lab.injector.add("CurrentTime", delay_seconds=3, count=0)
    lab.injector.add("Logout", delay_seconds=0.2)
    session = Session(lab.endpoint(), SystemClock())
    await session.run("logging in", lambda connection: None)
    calls = [
        asyncio.ensure_future(session.run("reading", lambda connection: touch(connection.stub)))
        for _ in range(20)
    ]
    await asyncio.sleep(0.1)
    started = time.monotonic()
    await session.close()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert time.monotonic() - started < 1.5
    assert all(isinstance(one, VCenterUnreachable | asyncio.CancelledError) for one in results)
    assert logins(lab) == 0


async def test_a_missing_privilege_is_named(lab: LabVCenter) -> None:
    async with connected(lab.endpoint(user=1)) as vcenter:
        moref = lab.vm("linux-bios").moref
        assert (await vcenter.get_vm(moref)).name == "linux-bios"
        with pytest.raises(VCenterPermissionDenied) as caught:
            await create_snapshot(vcenter, CLOCK, moref, "v2c-1", timeout_seconds=10)
    assert caught.value.metadata["privilege"] == "VirtualMachine.State.CreateSnapshot"


class ReleasedClock(FakeClock):
    """Sleeps until the test releases it, then reports when the sleeper comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []
        self._asleep = asyncio.Event()
        self._go = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._asleep.set()
        await self._go.wait()
        self._go.clear()

    async def release(self) -> None:
        """Let one sleep end and wait until the next begins."""
        await self._asleep.wait()
        self._asleep.clear()
        self._go.set()
        await self._asleep.wait()
