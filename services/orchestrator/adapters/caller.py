"""Blocking gRPC calls with a deadline and translated errors, for ticks, which run in threads."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Protocol, TypeVar

import grpc

from services.kit.channel import connect_sync, remote_errors
from services.kit.failure import Code, Failure
from services.kit.tls import TlsFiles

__all__ = ["SLOW_SECONDS", "Caller", "member", "reported"]

_Request = TypeVar("_Request", contravariant=True)
_Member = TypeVar("_Member", bound=StrEnum)
_Response = TypeVar("_Response", covariant=True)

# A snapshot of a busy machine takes minutes. A call that takes longer is repeated: it is
# idempotent.
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
        """Make a call that is answered in milliseconds. Raises RemoteError."""
        with remote_errors(self._peer):
            return call(request, timeout=QUICK_SECONDS)

    def slow(self, call: _Call[_Request, _Response], request: _Request) -> _Response:
        """Make a call that may take minutes. Raises RemoteError."""
        with remote_errors(self._peer):
            return call(request, timeout=SLOW_SECONDS)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Translate errors of a stream that is read inside the `with` block."""
        with remote_errors(self._peer):
            yield

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()


class _FailureMessage(Protocol):
    """What the agents' Failure messages have in common."""

    @property
    def reason(self) -> str: ...
    @property
    def code(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def hint(self) -> str: ...
    @property
    def retryable(self) -> bool: ...
    @property
    def metadata(self) -> Mapping[str, str]: ...


def reported(message: _FailureMessage) -> Failure | None:
    """The failure in an agent's message, None when it is empty.

    A message without a code, from an agent of an older version, becomes ABORTED.
    """
    if not message.reason:
        return None
    return Failure(
        reason=message.reason,
        message=message.message,
        code=Code.__members__.get(message.code, Code.ABORTED),
        hint=message.hint,
        retryable=message.retryable,
        metadata=dict(message.metadata),
    )


def member(kind: type[_Member], name: str) -> _Member:
    """The port's member for a message's enum name: RUNNING for ``TRANSFER_STATE_RUNNING``.

    Raises ValueError for a name that the port does not know.
    """
    return kind(name.rpartition("_")[2].lower())
