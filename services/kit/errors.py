"""The one error model of all services, and its two-way mapping to gRPC statuses.

A service defines a small tree of `ServiceError` subclasses (`services.kit.failure`). On the wire an
error is a gRPC status with a `google.rpc.ErrorInfo` (domain ``v2c``) in its details, so a
client gets back what the service raised: `RemoteError` has the same code, reason, metadata,
retryability and hint.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import grpc
import structlog
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from services.kit.details import DetailedError, packed
from services.kit.failure import Code, Failure, ServiceError
from services.kit.redact import redactor
from services.kit.unreachable import readable

__all__ = [
    "ERROR_DOMAIN",
    "CallCancelled",
    "ErrorStatus",
    "InternalError",
    "RemoteError",
    "RpcFailure",
    "ServiceNotReady",
    "internal_error",
    "to_status",
]

ERROR_DOMAIN = "v2c"

# gRPC's own key for a serialized google.rpc.Status in the trailers.
_DETAILS_KEY = "grpc-status-details-bin"
# Bytes. Trailers share one metadata budget (8 KiB by default), and a status carries the message
# twice: in UTF-8, and percent-encoded in a header.
_MESSAGE_LIMIT = 1500
_VALUE_LIMIT = 600
_HINT_LIMIT = 600
_REASON = re.compile(r"^[A-Z][A-Z0-9_]*[A-Z0-9]$")
_RETRYABLE_KEY = "retryable"
_HINT_KEY = "hint"

_log = structlog.stdlib.get_logger(__name__)


class InternalError(ServiceError):
    """An unexpected exception in the service. Its log has the traceback, under the message's id."""

    code = Code.INTERNAL
    reason = "INTERNAL"
    hint = "look in the service's log for the log id in the message"


@dataclass(frozen=True)
class ErrorStatus(grpc.Status):
    """A gRPC status with its details packed, as `ServicerContext.abort_with_status` takes it."""

    code: StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, bytes], ...]


class RpcFailure(Protocol):
    """What `grpc.aio.AioRpcError` and the synchronous client's error have in common."""

    def code(self) -> StatusCode:
        """The call's status code."""
        ...

    def details(self) -> str | None:
        """The status message."""
        ...


def internal_error(exc: BaseException) -> ServiceError:
    """Log an unexpected exception under a new id; return an error that holds only the id.

    The exception's text may hold a password, so none of it is sent to the caller.
    """
    log_id = secrets.token_hex(6)
    _log.error("unexpected error", action="rpc.internal_error", log_id=log_id, exc_info=exc)
    return InternalError(
        f"internal error, log id {log_id}",
        metadata={"log_id": log_id},
        hint=f"look for log_id={log_id} in the service's log",
    )


def to_status(exc: BaseException) -> ErrorStatus:
    """Translate an exception to a gRPC status with ErrorInfo (domain ``v2c``).

    ErrorInfo.metadata is the error's metadata plus ``retryable`` ("true"/"false") and, if there is
    one, ``hint``. Registered secrets are masked, and long texts are cut, so that the trailers stay
    below gRPC's size limit. An exception that is not a ServiceError is logged and becomes INTERNAL
    (see `internal_error`).
    """
    error = exc if isinstance(exc, ServiceError) else internal_error(exc)
    metadata = {
        key: _cut(str(redactor.item(key, value)), _VALUE_LIMIT)
        for key, value in error.metadata.items()
    }
    metadata[_RETRYABLE_KEY] = "true" if error.retryable else "false"
    if error.hint:
        metadata[_HINT_KEY] = _cut(redactor.text(error.hint), _HINT_LIMIT)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN, metadata=metadata)
    details = [packed(info), *(error.details if isinstance(error, DetailedError) else ())]
    message = _cut(redactor.text(error.message), _MESSAGE_LIMIT, escaped=3)
    status = status_pb2.Status(code=error.code.value, message=message, details=details)
    return ErrorStatus(
        code=StatusCode[error.code.name],
        details=message,
        trailing_metadata=((_DETAILS_KEY, status.SerializeToString()),),
    )


class RemoteError(DetailedError):
    """A failed call to another service: what that service raised, or why it was not reached.

    `peer` names the service that was called. Every service of v2c sends ErrorInfo. An error without
    it comes from gRPC or a proxy and gets the reason ``REMOTE_<CODE>``, with its hint from
    `TRANSPORT_HINTS`; it is retryable if its code is in `TRANSIENT`.
    """

    TRANSPORT_HINTS: ClassVar[Mapping[Code, str]] = {
        Code.UNAVAILABLE: "check that {peer} runs, that its address is right and that both "
        "sides use certificates of the same CA",
        Code.DEADLINE_EXCEEDED: "look in the log of {peer} for what it is waiting for",
        Code.UNIMPLEMENTED: "install the same version everywhere: {peer} is of another one",
    }
    TRANSIENT: ClassVar[frozenset[Code]] = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED})

    def __init__(self, failure: Failure, *, peer: str = "the service") -> None:
        super().__init__(failure)
        self.peer = peer

    @classmethod
    def without_details(cls, code: Code, text: str, *, peer: str) -> Self:
        """gRPC itself, or a proxy between the services, reported the error; often nothing listens
        at the address.
        """
        return cls(
            Failure(
                code=code,
                reason=f"REMOTE_{code.name}",
                message=readable(peer, text),
                retryable=code in cls.TRANSIENT,
                hint=cls.TRANSPORT_HINTS.get(code, "").format(peer=peer),
            ),
            peer=peer,
        )

    @classmethod
    def from_rpc_error(cls, exc: RpcFailure, *, peer: str = "the service") -> Self:
        """Translate a client-side gRPC error. Raise the result ``from`` the original."""
        # A stream that breaks after its status was sent fails with the code OK: UNKNOWN for us.
        code = Code.__members__.get(exc.code().name, Code.UNKNOWN)
        info, others = _details(exc)
        if info is None:
            return cls.without_details(code, exc.details() or code.name, peer=peer)
        metadata = dict(info.metadata)
        error = cls(
            Failure(
                code=code,
                reason=info.reason if _REASON.match(info.reason) else f"REMOTE_{code.name}",
                message=exc.details() or info.reason,
                retryable=metadata.pop(_RETRYABLE_KEY, "false") == "true",
                hint=metadata.pop(_HINT_KEY, ""),
                metadata=metadata,
            ),
            peer=peer,
        )
        error.details = others
        return error


class CallCancelled(RemoteError):
    """The other side cancelled the call, or the channel was closed."""

    code = Code.CANCELLED
    reason = "CALL_CANCELLED"
    retryable = True
    hint = "the service called was stopping or restarting; the same call works once it runs again"

    def __init__(self, message: str, *, peer: str) -> None:
        super().__init__(self.described(message), peer=peer)


class ServiceNotReady(RemoteError):
    """A service did not report SERVING within the time allowed."""

    code = Code.DEADLINE_EXCEEDED
    reason = "SERVICE_NOT_READY"
    retryable = True
    hint = "look in the service's log for what it is waiting for"

    def __init__(self, message: str, *, peer: str) -> None:
        super().__init__(self.described(message), peer=peer)


def _details(
    exc: RpcFailure,
) -> tuple[error_details_pb2.ErrorInfo | None, tuple[any_pb2.Any, ...]]:
    """The ErrorInfo of our domain in an error's trailers, None without one; and other details."""
    trailers = getattr(exc, "trailing_metadata", lambda: None)() or ()
    found, others = None, []
    for value in (value for key, value in trailers if key == _DETAILS_KEY):
        try:
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if found is None and detail.Unpack(info) and info.domain == ERROR_DOMAIN:
                    found = info
                else:
                    others.append(detail)
        except DecodeError:
            return None, ()  # A proxy wrote these trailers in another format: use the status alone.
    return found, tuple(others)


def _cut(text: str, limit: int, *, escaped: int = 1) -> str:
    """The text, or its beginning in at most `limit` bytes of UTF-8 and an ellipsis.

    A byte beyond ASCII counts `escaped` times.
    """
    room = limit
    for index, character in enumerate(text):
        size = len(character.encode(errors="replace"))
        room -= 1 if size == 1 else size * escaped
        if room < 0:
            return text[: max(index - 1, 0)] + "…"
    return text
