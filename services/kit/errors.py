"""The one error model of all services, and its two-way mapping to gRPC statuses.

A service defines a small tree of `ServiceError` subclasses, each fixing `code` and `reason`. On the
wire an error is a gRPC status with a `google.rpc.ErrorInfo` (domain ``v2c``) in its details, so a
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

from services.kit.redact import redactor
from services.kit.unreachable import readable

__all__ = [
    "ERROR_DOMAIN",
    "ErrorStatus",
    "RemoteError",
    "RpcFailure",
    "ServiceError",
    "StatusCode",
    "internal_error",
    "to_status",
]

ERROR_DOMAIN = "v2c"

# gRPC's own key for a serialized google.rpc.Status in the trailers.
_DETAILS_KEY = "grpc-status-details-bin"
# Trailers share one metadata budget (8 KiB by default) and a status carries the message twice.
_MESSAGE_LIMIT = 1500
_VALUE_LIMIT = 600
_HINT_LIMIT = 600
_REASON = re.compile(r"^[A-Z][A-Z0-9_]*[A-Z0-9]$")
_RETRYABLE_KEY = "retryable"
_HINT_KEY = "hint"

_log = structlog.stdlib.get_logger(__name__)


class ServiceError(Exception):
    """An expected failure, told to the caller as it is.

    Raise it directly with every keyword, or derive a class that fixes `code`, `reason` and
    possibly `retryable` and `hint`, and raise that with a message::

        class DiskMissing(ServiceError):
            code = StatusCode.NOT_FOUND
            reason = "DISK_MISSING"

        raise DiskMissing(message="VM web-1 has no disk 2000", metadata={"disk": "2000"})

    `message` is one paragraph for a person, without secrets. `reason` is UPPER_SNAKE and stable:
    programs decide by it. `metadata` holds the values a program or a UI needs. `retryable` says
    that the same call may succeed later without anybody changing anything. `hint` is the next step
    for a person.

    Raises ValueError when `code` is OK or `reason` is not UPPER_SNAKE.
    """

    code: StatusCode = StatusCode.UNKNOWN
    reason: str = "UNKNOWN"
    retryable: bool = False
    hint: str = ""
    message: str
    metadata: Mapping[str, str]

    def __init__(
        self,
        *,
        message: str,
        code: StatusCode | None = None,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retryable: bool | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        if code is not None:
            self.code = code
        if reason is not None:
            self.reason = reason
        if retryable is not None:
            self.retryable = retryable
        if hint is not None:
            self.hint = hint
        if self.code is StatusCode.OK:
            raise ValueError(f"{type(self).__name__}: OK is not an error code")
        if not _REASON.match(self.reason):
            raise ValueError(f"{type(self).__name__}: reason {self.reason!r} is not UPPER_SNAKE")

    def __str__(self) -> str:
        return self.message


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
    """Log an unexpected exception under a fresh id; return what the caller may know of it: the id.

    The exception's text may hold anything, a password too, so none of it goes to the caller.
    """
    log_id = secrets.token_hex(6)
    _log.error("unexpected error", action="rpc.internal_error", log_id=log_id, exc_info=exc)
    return ServiceError(
        code=StatusCode.INTERNAL,
        reason="INTERNAL",
        message=f"internal error, log id {log_id}",
        metadata={"log_id": log_id},
        hint=f"look for log_id={log_id} in the service's log",
    )


def to_status(exc: BaseException) -> ErrorStatus:
    """Translate an exception to a gRPC status with ErrorInfo (domain ``v2c``).

    ErrorInfo.metadata is the error's metadata plus ``retryable`` ("true"/"false") and, if there is
    one, ``hint``. Registered secrets are masked, and long texts are cut, so that the trailers stay
    below gRPC's size limit. An exception that is no ServiceError is logged and becomes INTERNAL
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
    packed = any_pb2.Any()
    packed.Pack(info)
    message = _cut(redactor.text(error.message), _MESSAGE_LIMIT)
    status = status_pb2.Status(code=error.code.value[0], message=message, details=[packed])
    return ErrorStatus(
        code=error.code,
        details=message,
        trailing_metadata=((_DETAILS_KEY, status.SerializeToString()),),
    )


class RemoteError(ServiceError):
    """A failed call to another service: what that service raised, or why it was not reached.

    `peer` names the service that was called. An error without ErrorInfo comes from gRPC itself or
    from something between; its reason is ``REMOTE_<CODE>`` and, for UNAVAILABLE and
    DEADLINE_EXCEEDED, it is retryable.
    """

    peer: str = ""

    _TRANSPORT_HINTS: ClassVar[Mapping[StatusCode, str]] = {
        StatusCode.UNAVAILABLE: "check that {peer} runs, that its address is right and that both "
        "sides use certificates of the same CA",
        StatusCode.DEADLINE_EXCEEDED: "look in the log of {peer} for what it is waiting for",
        StatusCode.UNIMPLEMENTED: "{peer} is of another version: install the same one everywhere",
    }
    _TRANSIENT: ClassVar[frozenset[StatusCode]] = frozenset(
        {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED}
    )

    @classmethod
    def from_rpc_error(cls, exc: RpcFailure, *, peer: str = "the service") -> Self:
        """Translate a client-side gRPC error. Raise the result ``from`` the original."""
        code = exc.code()
        if code is StatusCode.OK:
            # Seen only when a stream breaks after its status; never report success as an error.
            code = StatusCode.UNKNOWN
        info = _error_info(exc)
        if info is None:
            error = cls(
                code=code,
                reason=f"REMOTE_{code.name}",
                message=readable(peer, exc.details() or code.name),
                retryable=code in cls._TRANSIENT,
                hint=cls._TRANSPORT_HINTS.get(code, "").format(peer=peer),
            )
        else:
            metadata = dict(info.metadata)
            retryable = metadata.pop(_RETRYABLE_KEY, "false") == "true"
            hint = metadata.pop(_HINT_KEY, "")
            error = cls(
                code=code,
                reason=info.reason if _REASON.match(info.reason) else f"REMOTE_{code.name}",
                message=exc.details() or info.reason,
                metadata=metadata,
                retryable=retryable,
                hint=hint,
            )
        error.peer = peer
        return error


def _error_info(exc: RpcFailure) -> error_details_pb2.ErrorInfo | None:
    """The ErrorInfo of our domain in an error's trailers, or None when there is none."""
    trailers = getattr(exc, "trailing_metadata", lambda: None)() or ()
    for key, value in trailers:
        if key != _DETAILS_KEY:
            continue
        info = error_details_pb2.ErrorInfo()
        try:
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info) and info.domain == ERROR_DOMAIN:
                    return info
        except DecodeError:
            return None  # A proxy's trailers of another make: the bare status still counts.
    return None


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
