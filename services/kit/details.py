"""Details of a gRPC status beside ErrorInfo: proto messages about a failure, for programs."""

from typing import TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from services.kit.failure import Failure, ReportedError

__all__ = ["DetailedError", "packed"]

_M = TypeVar("_M", bound=Message)


class DetailedError(ReportedError):
    """A failure with messages of the service's own proto, which its gRPC status carries.

    They must not hold secrets, because they are not masked, and must be small: all trailers of a
    call share 8 KiB unless the client raises that limit.
    """

    def __init__(self, failure: Failure, *details: Message) -> None:
        super().__init__(failure)
        self.details = tuple(packed(detail) for detail in details)

    def detail(self, kind: type[_M]) -> _M | None:
        """The detail that is a message of this kind, or None when there is none."""
        message = kind()
        return next((message for each in self.details if each.Unpack(message)), None)


def packed(message: Message) -> Any:
    """The message wrapped in Any, the form that a status has its details in."""
    envelope = Any()
    envelope.Pack(message)
    return envelope
