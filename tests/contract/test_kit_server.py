import asyncio
import contextlib
import stat
import time
import urllib.request
from pathlib import Path

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.kit.address import AddressInUseError, UnixAddress
from services.kit.channel import await_serving, call, connect_sync, remote_errors, stream
from services.kit.errors import RemoteError
from services.kit.failure import Code
from services.kit.metrics import MetricsServer
from services.kit.server import TlsRequiredError, serving
from tests.rigs.fakes.kit_echo import Echo, EchoService


@pytest.fixture
def listen(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/run/echo.sock"


async def test_unary_call_over_a_unix_socket_of_this_user_alone(listen: str) -> None:
    async with serving("echo", listen, None, EchoService().register) as address:
        assert isinstance(address, UnixAddress)
        assert stat.S_IMODE(address.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(address.path.parent.stat().st_mode) == 0o700
        async with Echo.connect(address).channel as channel:
            assert await Echo(channel).say("hello") == "hello"
    assert not address.path.exists()


async def test_port_0_reports_the_port_taken() -> None:
    async with serving("echo", "127.0.0.1:0", None, EchoService().register) as address:
        assert not str(address).endswith(":0")
        async with Echo.connect(address).channel as channel:
            assert await Echo(channel).say("hello") == "hello"


async def test_a_taken_address_is_refused_and_the_owner_keeps_it(listen: str) -> None:
    async with serving("echo", listen, None, EchoService().register) as address:
        with pytest.raises(AddressInUseError):
            async with serving("second", listen, None, EchoService().register):
                pass
        async with Echo.connect(address).channel as channel:
            assert await Echo(channel).say("still here") == "still here"
    async with serving("echo", "127.0.0.1:0", None, EchoService().register) as tcp:
        with pytest.raises(AddressInUseError):
            async with serving("second", str(tcp), None, EchoService().register):
                pass


async def test_plain_grpc_is_refused_where_other_machines_reach_it() -> None:
    with pytest.raises(TlsRequiredError, match="tls is not set"):
        async with serving("echo", ":0", None, EchoService().register):
            pass


async def test_unary_without_deadline_is_refused_with_a_hint(listen: str) -> None:
    async with (
        serving("echo", listen, None, EchoService().register) as address,
        grpc.aio.insecure_channel(str(address)) as bare,
    ):
        with pytest.raises(RemoteError) as caught:
            await Echo(bare).say("hello")
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert caught.value.reason == "DEADLINE_REQUIRED"
        assert "-max-time" in caught.value.hint
        # A probe needs none.
        response = await health_pb2_grpc.HealthStub(bare).Check(health_pb2.HealthCheckRequest())
        assert response.status == health_pb2.HealthCheckResponse.SERVING


async def test_the_default_deadline_ends_a_slow_call_and_an_explicit_one_wins(listen: str) -> None:
    async with (
        serving("echo", listen, None, EchoService().register) as address,
        Echo.connect(address, timeout_seconds=0.2).channel as channel,
    ):
        with pytest.raises(RemoteError) as caught:
            await Echo(channel).say("sleep 5")
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        assert caught.value.retryable
        patient = Echo(channel).unary("Say")(StringValue(value="sleep 0.3"), timeout=5)
        assert (await patient).value == "sleep 0.3"


async def _ask(echo: Echo, value: str, method: str, received: list[str]) -> None:
    if method == "Say":
        received.append(await echo.say(value))
        return
    async for response in stream(echo.watch(value, method=method), peer="echo"):
        received.append(response.value)


@pytest.mark.parametrize("method", ["Say", "Watch", "WatchByWriting"])
async def test_an_error_arrives_as_it_was_raised(listen: str, method: str) -> None:
    async with (
        serving("echo", listen, None, EchoService().register) as address,
        Echo.connect(address).channel as channel,
    ):
        received: list[str] = []
        with pytest.raises(RemoteError) as caught:
            await _ask(Echo(channel), "nothing there", method, received)
        assert received == ([] if method == "Say" else ["first"])
        error = caught.value
        assert (error.code, error.reason) == (Code.NOT_FOUND, "NOTHING_THERE")
        assert (error.message, error.hint) == ("there is nothing", "look elsewhere")
        assert error.metadata == {"place": "here"}


async def test_an_error_of_a_service_behind_passes_through(tmp_path: Path) -> None:
    async with (
        serving("back", f"unix:{tmp_path}/b.sock", None, EchoService().register) as back,
        Echo.connect(back).channel as to_back,
        serving(
            "front", f"unix:{tmp_path}/f.sock", None, EchoService(Echo(to_back)).register
        ) as front,
        Echo.connect(front).channel as to_front,
    ):
        with pytest.raises(RemoteError) as caught:
            await Echo(to_front).say("nothing there", method="Pass")
        assert (caught.value.code, caught.value.reason) == (Code.NOT_FOUND, "NOTHING_THERE")
        assert caught.value.metadata == {"place": "here"}


@pytest.mark.parametrize("method", ["Say", "Watch"])
async def test_an_unexpected_exception_leaks_no_text(listen: str, method: str) -> None:
    async with (
        serving("echo", listen, None, EchoService().register) as address,
        Echo.connect(address).channel as channel,
    ):
        with pytest.raises(RemoteError) as caught:
            await _ask(Echo(channel), "leak hunter2", method, [])
        assert caught.value.reason == "INTERNAL"
        assert caught.value.metadata["log_id"] in caught.value.message
        assert "hunter2" not in f"{caught.value.message}{caught.value.hint}{caught.value.metadata}"


async def test_a_handler_that_would_block_is_refused(listen: str) -> None:
    async with (
        serving("echo", listen, None, EchoService().register) as address,
        Echo.connect(address).channel as channel,
    ):
        with pytest.raises(RemoteError) as caught:
            await Echo(channel).say("x", method="Blocking")
        assert caught.value.code is Code.INTERNAL


async def test_a_method_this_version_lacks(listen: str) -> None:
    async def register(server: grpc.aio.Server) -> list[str]:
        return []

    async with (
        serving("echo", listen, None, register) as address,
        Echo.connect(address).channel as channel,
    ):
        with pytest.raises(RemoteError) as caught:
            await Echo(channel).say("x")
        assert caught.value.code is Code.UNIMPLEMENTED
        assert "version" in caught.value.hint


async def test_cancelled_by_the_server_is_an_error_not_a_cancelled_task(listen: str) -> None:
    async with (
        serving("echo", listen, None, EchoService().register) as address,
        Echo.connect(address).channel as channel,
    ):
        with pytest.raises(RemoteError) as caught:
            await Echo(channel).say("cancelled")
        assert caught.value.code is Code.CANCELLED
        task = asyncio.create_task(Echo(channel).say("sleep 5"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_request_ids_travel_and_come_back(listen: str) -> None:
    service = EchoService()
    async with (
        serving("echo", listen, None, service.register) as address,
        Echo.connect(address).channel as channel,
    ):
        say = Echo(channel).unary("Say")
        asked = say(StringValue(value="x"), metadata=(("x-request-id", "my-id.7"),))
        await asked
        assert dict(await asked.initial_metadata())["x-request-id"] == "my-id.7"
        made = say(StringValue(value="x"))
        await made
        assert service.request_ids == [
            "my-id.7",
            dict(await made.initial_metadata())["x-request-id"],
        ]
        forged = say(StringValue(value="x"), metadata=(("x-request-id", 'a" b'),))
        await forged
        assert '"' not in dict(await forged.initial_metadata())["x-request-id"]


async def test_health_says_serving_only_after_start_and_before_stop(listen: str) -> None:
    seen: list[int] = []
    started = asyncio.Event()

    async def look() -> None:
        async with grpc.aio.insecure_channel(listen) as channel:
            response = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=5
            )
            seen.append(response.status)

    async def on_start() -> None:
        await look()
        started.set()

    async with serving(
        "echo", listen, None, EchoService().register, on_start=on_start, on_shutdown=look
    ):
        assert started.is_set()
        await look()
        await await_serving(listen, None, timeout_seconds=5, service="v2c.test.v1.EchoService")
    status = health_pb2.HealthCheckResponse
    assert seen == [status.NOT_SERVING, status.SERVING, status.NOT_SERVING]


async def test_waiting_for_a_service_that_does_not_come_says_what_was_wrong(listen: str) -> None:
    with pytest.raises(RemoteError, match=r"is not ready after 0\.2 s") as caught:
        await await_serving(listen, None, timeout_seconds=0.2, name="echo")
    assert caught.value.reason == "SERVICE_NOT_READY"
    assert caught.value.retryable


async def test_stopping_lets_unary_calls_finish_and_ends_streams_at_once(listen: str) -> None:
    async with Echo.connect(listen).channel as channel:
        echo = Echo(channel)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(
                serving("echo", listen, None, EchoService().register, grace_seconds=20)
            )
            watched = stream(echo.watch("for ever"), peer="echo")
            assert (await anext(watched)).value == "first"
            slow = asyncio.create_task(echo.say("sleep 0.3"))
            await asyncio.sleep(0.1)
            stopping = time.monotonic()
        assert time.monotonic() - stopping < 5
        assert await slow == "sleep 0.3"
        with pytest.raises(RemoteError) as caught:
            await anext(watched)
        assert (caught.value.code, caught.value.reason) == (
            Code.UNAVAILABLE,
            "SHUTTING_DOWN",
        )
        assert caught.value.retryable


async def test_a_failing_shutdown_hook_does_not_keep_the_service(listen: str) -> None:
    async def broken() -> None:
        raise OSError("disk full")

    async with serving("echo", listen, None, EchoService().register, on_shutdown=broken):
        pass
    async with serving("echo", listen, None, EchoService().register):
        pass  # the address is free again


async def test_a_failing_start_leaves_nothing_bound(listen: str) -> None:
    async def broken() -> None:
        raise OSError("no database")

    with pytest.raises(OSError, match="no database"):
        async with serving("echo", listen, None, EchoService().register, on_start=broken):
            pass
    async with serving("echo", listen, None, EchoService().register):
        pass


async def test_what_was_opened_is_released_once_however_it_ends(listen: str) -> None:
    released: list[str] = []

    async def release() -> None:
        released.append("released")

    async with serving("first", listen, None, EchoService().register, on_shutdown=release):
        with pytest.raises(AddressInUseError):
            async with serving("2nd", listen, None, EchoService().register, on_shutdown=release):
                pass
        assert released == ["released"]
    assert released == ["released", "released"]


async def test_metrics_count_calls_by_code(listen: str) -> None:
    with MetricsServer("127.0.0.1:0") as metrics:
        async with (
            serving("echo", listen, None, EchoService().register) as address,
            Echo.connect(address).channel as channel,
        ):
            await Echo(channel).say("x")
            with pytest.raises(RemoteError):
                await Echo(channel).say("nothing there")

        def scrape() -> str:
            with urllib.request.urlopen(f"http://{metrics.address}/metrics") as response:
                return str(response.read(), "utf-8")

        text = await asyncio.to_thread(scrape)
    labels = 'method="Say",service="v2c.test.v1.EchoService"'
    assert f'v2c_rpc_total{{code="OK",{labels}}}' in text
    assert f'v2c_rpc_total{{code="NOT_FOUND",{labels}}}' in text
    assert f"v2c_rpc_seconds_count{{{labels}}}" in text


async def test_reflection_is_off_unless_asked_for(listen: str) -> None:
    async def names() -> set[str]:
        async with grpc.aio.insecure_channel(listen) as channel:
            asked = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                iter([reflection_pb2.ServerReflectionRequest(list_services="*")])
            )
            return {s.name async for r in asked for s in r.list_services_response.service}

    async with serving("echo", listen, None, EchoService().register):
        with pytest.raises(grpc.aio.AioRpcError):
            await names()
    async with serving("echo", listen, None, EchoService().register, reflection=True):
        assert {"v2c.test.v1.EchoService", "grpc.health.v1.Health"} <= await names()


async def test_the_blocking_channel_translates_errors_too(listen: str) -> None:
    def ask() -> None:
        with remote_errors("echo"), connect_sync(listen, None) as channel:
            Echo(channel).unary("Say")(StringValue(value="nothing there"), timeout=5)

    async with serving("echo", listen, None, EchoService().register):
        with pytest.raises(RemoteError) as caught:
            await asyncio.to_thread(ask)
    assert caught.value.reason == "NOTHING_THERE"
    assert caught.value.metadata == {"place": "here"}


async def test_a_lost_service_is_found_again_after_its_restart(listen: str) -> None:
    async with Echo.connect(listen).channel as channel:
        async with serving("echo", listen, None, EchoService().register):
            assert await Echo(channel).say("one") == "one"
        with pytest.raises(RemoteError) as caught:
            await call(Echo(channel).say_raw("two"), peer="echo")
        assert caught.value.retryable
        async with serving("echo", listen, None, EchoService().register):
            call_when_back = Echo(channel).unary("Say")(
                StringValue(value="three"), wait_for_ready=True, timeout=10
            )
            assert (await call_when_back).value == "three"
