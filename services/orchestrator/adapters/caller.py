"""Blocking calls with a deadline, errors translated; ticks run in threads, not on a loop."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import grpc

from services.kit.channel import connect_sync, remote_errors
from services.kit.tls import TlsFiles

__all__ = ["SLOW_SECONDS", "Caller", "state_name"]

_Request = TypeVar("_Request", contravariant=True)
_Value = TypeVar("_Value", bound=int)
_Response = TypeVar("_Response", covariant=True)

# Snapshots of busy machines take minutes; the call is idempotent and asked again after that.
SLOW_SECONDS = 600.0
QUICK_SECONDS = 60.0


class _Call(Protocol[_Request, _Response]):
    def __call__(self, request: _Request, *, timeout: float | None = None) -> _Response: ...


class Caller:
    """One agent's channel."""

    def __init__(self, address: str, tls: TlsFiles | None, peer: str) -> None:
        self.channel: grpc.Channel = connect_sync(address, tls)
        self._peer = peer

    def quick(self, call: _Call[_Request, _Response], request: _Request) -> _Response:
        """Call what answers in milliseconds. Raises RemoteError."""
        with remote_errors(self._peer):
            return call(request, timeout=QUICK_SECONDS)

    def slow(self, call: _Call[_Request, _Response], request: _Request) -> _Response:
        """Call what may take minutes. Raises RemoteError."""
        with remote_errors(self._peer):
            return call(request, timeout=SLOW_SECONDS)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Translate the errors of streams read in the block."""
        with remote_errors(self._peer):
            yield

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()


def state_name(enum: Callable[[_Value], str], value: _Value, prefix: str) -> str:
    """``TRANSFER_STATE_RUNNING`` as ``running``."""
    return enum(value).removeprefix(prefix).lower()
