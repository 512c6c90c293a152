"""A resource at one moment, and the ports to its file and to the fences of images."""

import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,199}$")


class State(StrEnum):
    """Where a resource stands. The last three are ends; FAILED may be started again."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELLED)


class Record(Protocol):
    """A resource at one moment: a frozen value."""

    @property
    def id(self) -> str:
        """The id which the caller chose."""
        ...

    @property
    def state(self) -> State:
        """Where it stands."""
        ...

    @property
    def revision(self) -> int:
        """Grows with each change, also over restarts of the agent."""
        ...

    @property
    def create_time(self) -> float:
        """When it was first started, in seconds since the epoch."""
        ...

    @property
    def cancellable(self) -> bool:
        """Whether it may become CANCELLED, which is for good, if it has failed."""
        ...

    def changed(self, now: float, **changes: Any) -> Self:
        """A copy with changes and a higher revision."""
        ...


RecordT = TypeVar("RecordT", bound=Record)


class RecordStore(Protocol[RecordT]):
    """The files of one kind of resource. Methods block."""

    def save(self, record: RecordT, /) -> None:
        """Write a record, atomically and durably. Raises OSError."""
        ...

    def load(self) -> Iterator[tuple[Path, RecordT | None]]:
        """All records with their files; None for a file that cannot be understood."""
        ...


class Fences(Protocol):
    """The highest fencing epoch that each image has seen. Methods block."""

    def fence(self, target_path: str) -> int:
        """The highest epoch an image has seen; 0 before the first."""
        ...

    def raise_fence(self, target_path: str, epoch: int) -> None:
        """Refuse lower epochs for this image from now on."""
        ...


def next_revision(revision: int, now: float) -> int:
    """The revision after one.

    It is the time in milliseconds where it can be: an agent that lost the last revisions in a crash
    still gives higher ones than its watchers have seen.
    """
    return max(revision + 1, int(now * 1000))


def is_resource_id(text: str) -> bool:
    """Whether a text can be the id of a resource, and so the name of a file or folder."""
    return bool(_ID.match(text))
