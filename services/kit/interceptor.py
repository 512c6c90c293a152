"""The server's interceptor around every RPC: one class for unary and streaming methods."""

from __future__ import annotations

import asyncio
import inspect
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import structlog
from grpc import StatusCode

from services.kit.errors import RemoteError, to_status
from services.kit.failure import Code, ServiceError
from services.kit.metrics import RPC_SECONDS, RPC_STREAMS, RPC_TOTAL

REQUEST_ID_KEY = "x-request-id"

_ACCEPTED_REQUEST_ID = re.compile(r"^[A-Za-z0-9._:-]{1,64}$")
# grpcurl and probes call these without a deadline; metrics and logs of them are of no use.
_EXEMPT = ("/grpc.health.v1.Health/", "/grpc.reflection.")

_log = structlog.stdlib.get_logger(__name__)

# Any: the messages of every service pass through here. Quoted: generic in the type stubs only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class DeadlineRequiredError(ServiceError):
    """A unary call came without a deadline: its caller might wait for ever."""

    code = Code.INVALID_ARGUMENT
    reason = "DEADLINE_REQUIRED"
    hint = "set a deadline on the call (grpcurl: -max-time 10)"


class MethodNotImplementedError(ServiceError):
    """The service's definition has the method, but this version does not implement it."""

    code = Code.UNIMPLEMENTED
    reason = "METHOD_NOT_IMPLEMENTED"
    hint = "install the same version of v2c on all hosts"


class ShuttingDownError(ServiceError):
    """The server is stopping and has ended a stream."""

    code = Code.UNAVAILABLE
    reason = "SHUTTING_DOWN"
    retryable = True
    hint = "watch again once the service is back"


class BlockingHandlerError(TypeError):
    """A handler is not declared with async def: it would block the event loop."""


@dataclass(frozen=True)
class _Method:
    service: str
    name: str
    is_stream: bool

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


class RpcInterceptor(grpc.aio.ServerInterceptor):
    """Deadlines, request ids, error mapping, metrics and the access log of one server.

    - A unary call without a deadline is refused (health and reflection are exempt).
    - The request id comes from the ``x-request-id`` metadata or is made here; it is returned in the
      initial metadata and is bound to the log context.
    - A ServiceError raised by a handler becomes a status with ErrorInfo, in unary and in streaming
      methods; an error of a service that the handler called is passed on as that service raised
      it; any other exception becomes INTERNAL without its text.
    """

    def __init__(self) -> None:
        self._wrapped: dict[str, Handler] = {}
        self._streams: set[asyncio.Task[Any]] = set()
        self._ending = False

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap the method's handler; called by gRPC for each RPC."""
        path = handler_call_details.method
        if path in self._wrapped:
            return self._wrapped[path]
        handler = await continuation(handler_call_details)
        if handler is None or path.startswith(_EXEMPT):
            return handler
        service, _, name = path.removeprefix("/").partition("/")
        wrapped = self._wrap(handler, _Method(service, name, handler.response_streaming))
        self._wrapped[path] = wrapped
        return wrapped

    def end_streams(self) -> None:
        """End all open response streams, and those begun later, with UNAVAILABLE / SHUTTING_DOWN.

        Streams only report changes; a graceful stop would wait for them until its time is up.
        """
        self._ending = True
        for task in self._streams:
            task.cancel()

    def _wrap(self, handler: Handler, method: _Method) -> Handler:
        if handler.response_streaming:
            streaming = handler.stream_stream or handler.unary_stream

            async def serve_stream(request: Any, context: Context) -> None:
                async def run() -> None:
                    responses = _checked(streaming, method)(request, context)
                    if inspect.isawaitable(responses):
                        await responses
                        return
                    async for response in responses:
                        await context.write(response)

                await self._serve_stream(method, context, run)

            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return make(serve_stream, handler.request_deserializer, handler.response_serializer)

        unary = handler.stream_unary or handler.unary_unary

        async def serve_unary(request: Any, context: Context) -> Any:
            async def run() -> Any:
                if context.time_remaining() is None:
                    raise DeadlineRequiredError(
                        message=f"{method.path} was called without a deadline"
                    )
                return await _checked(unary, method)(request, context)

            return await self._serve(method, context, run)

        make = (
            grpc.stream_unary_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return make(serve_unary, handler.request_deserializer, handler.response_serializer)

    async def _serve_stream(
        self, method: _Method, context: Context, run: Callable[[], Awaitable[None]]
    ) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("an RPC is always handled in a task")
        open_streams = RPC_STREAMS.labels(method.service, method.name)
        self._streams.add(task)
        open_streams.inc()

        async def run_until_shutdown() -> None:
            if self._ending:
                raise ShuttingDownError(message="the service is shutting down")
            try:
                await run()
            except asyncio.CancelledError:
                if not self._ending:
                    raise
                task.uncancel()
                raise ShuttingDownError(message="the service is shutting down") from None

        try:
            await self._serve(method, context, run_until_shutdown)
        finally:
            open_streams.dec()
            self._streams.discard(task)

    async def _serve(
        self, method: _Method, context: Context, run: Callable[[], Awaitable[Any]]
    ) -> Any:
        request_id = _request_id(context)
        # gRPC handles each RPC in a task of its own: these values are dropped when it ends.
        structlog.contextvars.bind_contextvars(request_id=request_id, rpc=method.path)
        started = time.perf_counter()
        code = StatusCode.UNKNOWN
        try:
            await context.send_initial_metadata(((REQUEST_ID_KEY, request_id),))
            result = await run()
            code = _code_set(context)
        except asyncio.CancelledError:
            code = StatusCode.CANCELLED
            raise
        except grpc.aio.AbortError:
            code = _code_set(context)
            raise
        except Exception as exc:
            status = to_status(_translated(exc))
            code = status.code
            await context.abort_with_status(status)
        finally:
            _record(method, code, time.perf_counter() - started, context)
        return result


def _checked(function: Callable[..., Any] | None, method: _Method) -> Callable[..., Any]:
    """The handler's function, once checked to be a coroutine or async generator function."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return function
    # A method that the service does not implement is a plain function of the generated base class.
    if getattr(function, "__module__", "").endswith("_pb2_grpc"):
        raise MethodNotImplementedError(message=f"{method.path} is not implemented by this version")
    raise BlockingHandlerError(f"the handler of {method.path} must be declared with async def")


def _translated(exc: Exception) -> Exception:
    if isinstance(exc, grpc.aio.AioRpcError):
        return RemoteError.from_rpc_error(exc, peer="a service called by this one")
    return exc


def _request_id(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and _ACCEPTED_REQUEST_ID.match(value):
            return value
    return secrets.token_hex(8)


_CODES = {code.value[0]: code for code in StatusCode}


def _code_set(context: Context) -> StatusCode:
    """The status code that the handler set; grpc.aio returns a number, 0 when none was set."""
    code: object = context.code()
    if isinstance(code, StatusCode):
        return code
    return _CODES.get(code, StatusCode.UNKNOWN) if isinstance(code, int) else StatusCode.OK


def _record(method: _Method, code: StatusCode, seconds: float, context: Context) -> None:
    RPC_TOTAL.labels(method.service, method.name, code.name).inc()
    if not method.is_stream:
        RPC_SECONDS.labels(method.service, method.name).observe(seconds)
    _log.debug(
        "rpc served",
        action="rpc.served",
        code=code.name,
        seconds=round(seconds, 4),
        peer=context.peer(),
    )
