"""A resource at one moment, and the ports to its file and to the fences of images."""

import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,199}$")


class State(StrEnum):
    """The state of a resource. The last three are ends, of which FAILED may be started again."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether the resource has ended, so that no process of it runs."""
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELLED)


class Record(Protocol):
    """A resource at one moment: a frozen value."""

    @property
    def id(self) -> str:
        """The id that the caller chose."""
        ...

    @property
    def state(self) -> State:
        """The current state."""
        ...

    @property
    def revision(self) -> int:
        """Grows with each change, also over restarts of the agent."""
        ...

    @property
    def create_time(self) -> float:
        """The time of the first start, in seconds since the epoch."""
        ...

    @property
    def cancellable(self) -> bool:
        """Whether a failed resource may become CANCELLED, and so cannot be started again."""
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
        """All records with their files; None for a file with invalid content."""
        ...


class Fences(Protocol):
    """The highest fencing epoch that each image has seen. Methods block."""

    def fence(self, target_path: str) -> int:
        """The highest epoch an image has seen; 0 before the first."""
        ...

    def raise_fence(self, target_path: str, epoch: int) -> None:
        """Have lower epochs refused for this image from now on."""
        ...


def next_revision(revision: int, now: float) -> int:
    """The revision after `revision`.

    It is the time in milliseconds, or one more than `revision` if that is higher. So an agent that
    lost the last revisions in a crash still gives higher ones than its watchers have seen.
    """
    return max(revision + 1, int(now * 1000))


def is_resource_id(text: str) -> bool:
    """Whether a text can be the id of a resource, and so the name of a file or folder."""
    return bool(_ID.match(text))
