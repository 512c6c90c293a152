"""More about a failure than ErrorInfo holds, for programs: further details of a gRPC status."""

from typing import TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from services.kit.failure import Failure, ReportedError

__all__ = ["DetailedError", "packed"]

_M = TypeVar("_M", bound=Message)


class DetailedError(ReportedError):
    """A failure with messages of the service's own proto, which travel with its status.

    They hold no secrets. Whoever makes them keeps them small: all trailers of a call share 8 KiB
    in clients that do not allow for more.
    """

    def __init__(self, failure: Failure, *details: Message) -> None:
        super().__init__(failure)
        self.details = tuple(packed(detail) for detail in details)

    def detail(self, kind: type[_M]) -> _M | None:
        """The detail that is a message of this kind, or None when there is none."""
        message = kind()
        return next((message for each in self.details if each.Unpack(message)), None)


def packed(message: Message) -> Any:
    """The message as the details of a status hold it."""
    envelope = Any()
    envelope.Pack(message)
    return envelope
