"""A service without a domain: what the kit's tests serve and call, also as a process of its own."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from services.kit.channel import call, connect
from services.kit.entry import ServiceArguments, parse_service_arguments, run_entry
from services.kit.failure import Code, ServiceError
from services.kit.server import run_service
from services.kit.tls import TlsFiles

SERVICE = "v2c.test.v1.EchoService"


class CalledOffError(ServiceError):
    code = Code.CANCELLED
    reason = "CALLED_OFF"


class NothingThereError(ServiceError):
    code = Code.NOT_FOUND
    reason = "NOTHING_THERE"
    hint = "look elsewhere"


class EchoService:
    """Answers ``request``; raises what the request names."""

    def __init__(self, downstream: "Echo | None" = None) -> None:
        self._downstream = downstream
        self.request_ids: list[str] = []

    async def register(self, server: grpc.aio.Server) -> Sequence[str]:
        def unary(function: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(
                function, StringValue.FromString, StringValue.SerializeToString
            )

        def streaming(function: Any) -> Any:
            return grpc.unary_stream_rpc_method_handler(
                function, StringValue.FromString, StringValue.SerializeToString
            )

        handlers = {
            "Say": unary(self.say),
            "Blocking": unary(self.blocking),
            "Pass": unary(self.pass_on),
            "Watch": streaming(self.watch),
            "WatchByWriting": streaming(self.watch_by_writing),
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
        return [SERVICE]

    async def say(self, request: StringValue, context: Any) -> StringValue:
        metadata = dict(context.invocation_metadata())
        self.request_ids.append(metadata.get("x-request-id", ""))
        if request.value.startswith("sleep "):
            await asyncio.sleep(float(request.value.split()[1]))
        _raise_what_is_named(request.value)
        return StringValue(value=request.value)

    def blocking(self, request: StringValue, context: Any) -> StringValue:
        return request

    async def pass_on(self, request: StringValue, context: Any) -> StringValue:
        assert self._downstream is not None
        return StringValue(value=await self._downstream.say_raw(request.value))

    async def watch(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        yield StringValue(value="first")
        _raise_what_is_named(request.value)
        if request.value == "for ever":
            await asyncio.Event().wait()

    async def watch_by_writing(self, request: StringValue, context: Any) -> None:
        await context.write(StringValue(value="first"))
        _raise_what_is_named(request.value)


def _raise_what_is_named(text: str) -> None:
    if text == "nothing there":
        raise NothingThereError(message="there is nothing", metadata={"place": "here"})
    if text.startswith("leak "):
        raise RuntimeError(f"cannot log in with {text.removeprefix('leak ')}")
    if text == "cancelled":
        raise CalledOffError("called off")


@dataclass(frozen=True)
class Echo:
    """A client of the service."""

    channel: Any  # of grpc.aio, or the blocking one

    @classmethod
    def connect(
        cls, address: object, tls: TlsFiles | None = None, *, timeout_seconds: float = 5.0
    ) -> "Echo":
        return cls(connect(str(address), tls, default_timeout_seconds=timeout_seconds, name="echo"))

    async def say(
        self, value: str, *, method: str = "Say", timeout_seconds: float | None = None
    ) -> str:
        return await call(self.say_raw(value, method, timeout_seconds), peer="echo")

    async def say_raw(
        self, value: str, method: str = "Say", timeout_seconds: float | None = None
    ) -> str:
        asked = self.unary(method)(StringValue(value=value), timeout=timeout_seconds)
        response: StringValue = await asked
        return response.value

    def unary(self, method: str) -> Any:
        return self.channel.unary_unary(
            f"/{SERVICE}/{method}", StringValue.SerializeToString, StringValue.FromString
        )

    def watch(self, value: str, *, method: str = "Watch") -> Any:
        return self.channel.unary_stream(
            f"/{SERVICE}/{method}", StringValue.SerializeToString, StringValue.FromString
        )(StringValue(value=value))


async def main(arguments: ServiceArguments) -> None:
    await run_service(
        "echo",
        arguments.listen or "127.0.0.1:0",
        None,
        EchoService().register,
        ready_file=arguments.ready_file,
        grace_seconds=5,
    )


if __name__ == "__main__":
    sys.exit(run_entry("echo", parse_service_arguments("echo", "test service"), main))
