"""Channels to other services: default deadlines, request ids, errors as the service raised them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar, cast

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.kit.address import UnixAddress, parse_target
from services.kit.errors import CallCancelled, RemoteError, RpcFailure, ServiceNotReady
from services.kit.health import is_serving
from services.kit.interceptor import REQUEST_ID_KEY
from services.kit.server import MAX_MESSAGE_BYTES, MAX_METADATA_BYTES
from services.kit.tls import TlsFiles

_T = TypeVar("_T")

_CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC waits up to two minutes between attempts; a restarted service should be back at once.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 3_000),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    # Services are reached directly; an http_proxy in the environment is for other programs.
    ("grpc.enable_http_proxy", 0),
)
_HEALTH_ATTEMPT_SECONDS = 2.0
_HEALTH_INTERVAL_SECONDS = 0.05


def connect(
    address: str, tls: TlsFiles | None, *, default_timeout_seconds: float, name: str
) -> grpc.aio.Channel:
    """A channel to the service `name`; it connects at the first call and reconnects by itself.

    A unary call without ``timeout=`` gets `default_timeout_seconds`; streams get none. Each call
    carries the request id bound to the log context (``request_id``), or a new one. Close the
    channel, or use it as an async context manager. Calls raise grpc.aio.AioRpcError: put them in
    `call`, `stream` or a `remote_errors` block.

    Raises InvalidAddressError, TlsFilesError. Must be called with a running event loop.
    """
    target, options = _target(address, tls)
    interceptors = (
        _UnaryUnary(default_timeout_seconds),
        _UnaryStream(),
        _StreamUnary(default_timeout_seconds),
        _StreamStream(),
    )
    structlog.stdlib.get_logger(__name__).debug(
        "channel opened", action="channel.opened", peer=name, address=target
    )
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)
    return grpc.aio.secure_channel(
        target, tls.channel_credentials(), options=options, interceptors=interceptors
    )


def connect_sync(address: str, tls: TlsFiles | None) -> grpc.Channel:
    """A blocking channel for small programs; pass ``timeout=`` with every unary call.

    Errors are translated by `remote_errors` too. Raises InvalidAddressError, TlsFilesError.
    """
    target, options = _target(address, tls)
    if tls is None:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, tls.channel_credentials(), options=options)


@contextlib.contextmanager
def remote_errors(peer: str) -> Iterator[None]:
    """Translate gRPC client errors raised in the block to RemoteError naming `peer`.

    gRPC raises CancelledError not only when this task is cancelled but also when the channel is
    closed or the server answers CANCELLED; the latter two become RemoteError (CALL_CANCELLED).
    """
    try:
        yield
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise CallCancelled(
            f"{peer}: the call was cancelled by the other side or its channel was closed", peer=peer
        ) from exc
    except grpc.RpcError as exc:
        raise RemoteError.from_rpc_error(cast(RpcFailure, exc), peer=peer) from exc


async def call(awaitable: Awaitable[_T], *, peer: str) -> _T:
    """Await a unary call: ``await call(stub.GetVm(request), peer="vmware agent")``.

    Raises RemoteError.
    """
    with remote_errors(peer):
        return await awaitable


async def stream(responses: grpc.aio.UnaryStreamCall[Any, _T], *, peer: str) -> AsyncIterator[_T]:
    """Iterate over a response stream; leaving the loop cancels the call. Raises RemoteError.

    Wrap it in ``contextlib.aclosing`` where the loop may be left early.
    """
    try:
        with remote_errors(peer):
            async for response in responses:
                yield response
    finally:
        responses.cancel()


async def await_serving(
    address: str,
    tls: TlsFiles | None,
    *,
    timeout_seconds: float,
    name: str = "the service",
    service: str = "",
) -> None:
    """Wait until the service at `address` reports SERVING (`service`: a full name, "" for all).

    Raises ServiceNotReady, a RemoteError (DEADLINE_EXCEEDED, retryable), if it did not within
    `timeout_seconds`; the message names the problem of the last attempt.
    """
    problem = "it did not answer"
    request = health_pb2.HealthCheckRequest(service=service)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_seconds
    async with connect(
        address, tls, default_timeout_seconds=_HEALTH_ATTEMPT_SECONDS, name=name
    ) as channel:
        check: Callable[..., Awaitable[object]] = health_pb2_grpc.HealthStub(channel).Check
        while (remaining := deadline - loop.time()) > 0:
            try:
                response = await check(request, timeout=min(remaining, _HEALTH_ATTEMPT_SECONDS))
            except grpc.aio.AioRpcError as exc:
                problem = RemoteError.from_rpc_error(exc, peer="it").message
            else:
                if is_serving(response):
                    return
                problem = "it is starting or stopping (NOT_SERVING)"
            await asyncio.sleep(min(_HEALTH_INTERVAL_SECONDS, max(deadline - loop.time(), 0)))
    raise ServiceNotReady(
        f"{name} at {address} is not ready after {timeout_seconds:g} s: {problem}", peer=name
    )


def _target(address: str, tls: TlsFiles | None) -> tuple[str, list[tuple[str, str | int]]]:
    parsed = parse_target(address)
    options: list[tuple[str, str | int]] = list(_CHANNEL_OPTIONS)
    if tls is not None and isinstance(parsed, UnixAddress):
        # A socket's path is not a host name; every certificate of our CA is valid for localhost.
        options.append(("grpc.ssl_target_name_override", "localhost"))
    return str(parsed), options


def _details(
    details: grpc.aio.ClientCallDetails, default_timeout_seconds: float | None
) -> grpc.aio.ClientCallDetails:
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    if metadata.get(REQUEST_ID_KEY) is None:
        bound = structlog.contextvars.get_contextvars().get("request_id")
        metadata.add(REQUEST_ID_KEY, str(bound) if bound else secrets.token_hex(8))
    timeout = details.timeout if details.timeout is not None else default_timeout_seconds
    return grpc.aio.ClientCallDetails(
        details.method, timeout, metadata, details.credentials, details.wait_for_ready
    )


# gRPC chooses an interceptor's kind by its class and takes one kind per object.
# Any: the types of continuations differ between gRPC versions, and nothing here depends on them.


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, default_timeout_seconds: float) -> None:
        self._default = default_timeout_seconds

    async def intercept_unary_unary(
        self,
        continuation: Any,
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        return await continuation(_details(client_call_details, self._default), request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self,
        continuation: Any,
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        return await continuation(_details(client_call_details, None), request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, default_timeout_seconds: float) -> None:
        self._default = default_timeout_seconds

    async def intercept_stream_unary(
        self,
        continuation: Any,
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: Any,
    ) -> Any:
        return await continuation(_details(client_call_details, self._default), request_iterator)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self,
        continuation: Any,
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: Any,
    ) -> Any:
        return await continuation(_details(client_call_details, None), request_iterator)
