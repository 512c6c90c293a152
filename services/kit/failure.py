"""What went wrong, as one value: it stays the same from where it is raised to the user's terminal.

A `Failure` is sent between processes and stored in files and databases. `ServiceError` is the
exception that carries one inside a process; each reason has a subclass of it. Neither imports gRPC,
so that a copy worker starts without loading it; `services.kit.errors` maps both to gRPC statuses.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Self

__all__ = ["Code", "Failure", "ReportedError", "ServiceError", "error_classes"]

_REASON = re.compile(r"^[A-Z][A-Z0-9_]*[A-Z0-9]$")
_KEYS = frozenset({"reason", "message", "metadata", "retryable"})


class Code(Enum):
    """The kinds of failure, with the names and numbers of google.rpc.Code except OK."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


@dataclass(frozen=True)
class Failure:
    """One thing that went wrong.

    `reason` is UPPER_SNAKE and stable: programs decide by it. `message` is one paragraph for a
    person, without secrets. `hint` is the next step for a person. `retryable` is true when the same
    operation may succeed later without any change. `metadata` holds the values that a program or a
    UI needs.
    """

    reason: str
    message: str
    code: Code = Code.UNKNOWN
    hint: str = ""
    retryable: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)

    def to_wire(self) -> dict[str, object]:
        """The failure as a JSON object."""
        return {
            "reason": self.reason,
            "code": self.code.name,
            "message": self.message,
            "hint": self.hint,
            "retryable": self.retryable,
            "metadata": dict(self.metadata),
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, object]) -> Self:
        """Rebuild a failure from the object that `to_wire`, of this or an older version, made.

        Raises ValueError when a key is missing.
        """
        missing = _KEYS - wire.keys()
        if missing:
            raise ValueError(f"failure without {', '.join(sorted(missing))}")
        metadata = wire["metadata"]
        pairs = metadata.items() if isinstance(metadata, Mapping) else ()
        return cls(
            reason=str(wire["reason"]),
            message=str(wire["message"]),
            code=Code.__members__.get(str(wire.get("code")), Code.UNKNOWN),
            hint=str(wire.get("hint", "")),
            retryable=bool(wire["retryable"]),
            metadata={str(key): str(value) for key, value in pairs},
        )


class ServiceError(Exception):
    """An expected failure, reported to the caller as it is.

    Derive a class that sets `code`, `reason` and possibly `retryable` and `hint`. The first
    paragraph of its docstring is the meaning of the reason; docs/reference/errors.md is rendered
    from these. Raise it with a message::

        class DiskMissing(ServiceError):
            \"\"\"The machine has no such disk.\"\"\"

            code = Code.NOT_FOUND
            reason = "DISK_MISSING"
            hint = "look at the machine's disks with `v2c list vms`"

        raise DiskMissing("VM web-1 has no disk 2000", metadata={"disk": "2000"})

    A `hint` or `retryable` that depends on the case is passed when the error is raised.
    """

    code: Code = Code.UNKNOWN
    reason: str = "UNKNOWN"
    retryable: bool = False
    hint: str = ""
    failure: Failure

    def __init_subclass__(cls) -> None:
        if not _REASON.match(cls.reason):
            raise ValueError(f"{cls.__name__}: reason {cls.reason!r} is not UPPER_SNAKE")

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        retryable: bool | None = None,
        hint: str | None = None,
    ) -> None:
        self._hold(
            Failure(
                reason=self.reason,
                message=message,
                code=self.code,
                hint=self.hint if hint is None else hint,
                retryable=self.retryable if retryable is None else retryable,
                metadata=dict(metadata or {}),
            )
        )

    def amend(self, message: str, **metadata: str) -> None:
        """Replace the message and add metadata: for a caller that knows more about the failure."""
        known = {**self.failure.metadata, **metadata}
        self._hold(replace(self.failure, message=message, metadata=known))

    @classmethod
    def described(cls, message: str) -> Failure:
        """A failure of this class with a message, for a record; nothing is raised."""
        return Failure(cls.reason, message, cls.code, cls.hint, cls.retryable)

    def _hold(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure
        # The class's attributes are defaults; an instance has the values of its own failure.
        self.reason, self.code = failure.reason, failure.code
        self.hint, self.retryable = failure.hint, failure.retryable

    @property
    def message(self) -> str:
        """One paragraph for a person."""
        return self.failure.message

    @property
    def metadata(self) -> Mapping[str, str]:
        """The values for a program or a UI."""
        return self.failure.metadata

    def __str__(self) -> str:
        return self.failure.message


class ReportedError(ServiceError):
    """A failure that another process reported, or that was read from a record."""

    def __init__(self, failure: Failure) -> None:
        self._hold(failure)


def error_classes(root: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    """All subclasses of `root`, direct or not, that set a reason; only modules imported so far."""
    for kind in root.__subclasses__():
        if "reason" in vars(kind):
            yield kind
        yield from error_classes(kind)
