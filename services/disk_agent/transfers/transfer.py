"""A transfer as a resource: its value, and its files on the agent's disk."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from services.disk_agent.engine.progress import Progress
from services.disk_agent.failures import TransferCancelled
from services.disk_agent.host.state_file import write_state
from services.disk_agent.worker.order import TransferOrder
from services.kit.failure import Failure

_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,199}$")


class State(StrEnum):
    """Where a transfer stands. The last three are ends; FAILED may be started again."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether no worker is at it any more."""
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELLED)


@dataclass(frozen=True)
class Transfer:
    """A transfer at one moment. `revision` grows with each change, also over restarts."""

    order: TransferOrder
    state: State
    revision: int
    create_time: float
    epoch: int = 0
    attempts: int = 0
    rate_bytes_per_second: int = 0
    progress: Progress = field(default_factory=Progress)
    failure: Failure | None = None
    end_time: float | None = None
    digest: str = ""
    paused: bool = False
    # The limit in force, in bytes a second; 0 for none, and while no worker runs.
    effective_rate: int = 0

    @property
    def id(self) -> str:
        """The id which the caller chose."""
        return self.order.transfer_id

    def changed(self, now: float, **changes: Any) -> Self:
        """A copy with changes and a higher revision.

        Revisions are milliseconds where they can be: an agent that lost the last revisions in a
        crash still gives higher ones than its watchers have seen.
        """
        return replace(self, revision=max(self.revision + 1, int(now * 1000)), **changes)

    def to_wire(self) -> dict[str, object]:
        """The transfer as a JSON object; it holds no secrets."""
        return {
            "order": self.order.to_wire(),
            "state": self.state.value,
            "revision": self.revision,
            "create_time": self.create_time,
            "epoch": self.epoch,
            "attempts": self.attempts,
            "rate_bytes_per_second": self.rate_bytes_per_second,
            "progress": self.progress.to_wire(),
            "failure": self.failure.to_wire() if self.failure is not None else None,
            "end_time": self.end_time,
            "digest": self.digest,
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Self:
        """Rebuild from `to_wire`'s object; raises KeyError, TypeError or ValueError."""
        fields = dict(wire)
        failure = fields.pop("failure")
        return cls(
            order=TransferOrder.from_wire(fields.pop("order")),
            state=State(fields.pop("state")),
            progress=Progress.from_wire(fields.pop("progress")),
            failure=Failure.from_wire(failure) if failure is not None else None,
            **fields,
        )


def is_transfer_id(text: str) -> bool:
    """Whether a text can be the id of a transfer, and so a file's name."""
    return bool(_ID.match(text))


def changes_at_end(end: Mapping[str, Any]) -> dict[str, Any]:
    """What a worker's last event makes of a transfer."""
    changes: dict[str, Any] = {"digest": end["digest"]}
    if end["progress"]:
        changes["progress"] = Progress.from_wire(end["progress"])
    failure = end["failure"]
    if failure is None:
        return {**changes, "state": State.SUCCEEDED}
    cancelled = failure["reason"] == TransferCancelled.reason
    changes["failure"] = Failure.from_wire(failure)
    return {**changes, "state": State.CANCELLED if cancelled else State.FAILED}


class TransferStore:
    """Transfers, maps, range sets and fences below one directory. Methods block."""

    def __init__(self, state_dir: Path) -> None:
        self._transfers = state_dir / "transfers"
        self._maps = state_dir / "maps"
        self._fences = state_dir / "fences"
        self.ranges_dir = state_dir / "ranges"
        for folder in (self._transfers, self._maps, self._fences, self.ranges_dir):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def map_path(self, target_path: str) -> Path:
        """The chunk map of an image; its name shows the image's, for whoever looks."""
        return self._maps / f"{_name_of(target_path)}.map"

    def save(self, transfer: Transfer) -> None:
        """Write a transfer, atomically and durably."""
        write_state(self._transfers / f"{transfer.id}.json", transfer.to_wire())

    def load(self) -> Iterator[tuple[Path, Transfer | None]]:
        """All transfers with their files; None for a file that cannot be understood."""
        for path in sorted(self._transfers.glob("*.json")):
            try:
                yield path, Transfer.from_wire(json.loads(path.read_text()))
            except (ValueError, KeyError, TypeError):
                yield path, None

    def delete(self, transfer: Transfer) -> None:
        """Forget a transfer and its range set; the image's chunk map belongs to the image."""
        (self._transfers / f"{transfer.id}.json").unlink(missing_ok=True)

    def forget_image(self, target_path: str) -> None:
        """Forget what is known of an image that was deleted: its map and its fence."""
        map_path = self.map_path(target_path)
        map_path.unlink(missing_ok=True)
        map_path.with_name(f"{map_path.name}.open").unlink(missing_ok=True)
        self._fence_path(target_path).unlink(missing_ok=True)

    def fence(self, target_path: str) -> int:
        """The highest epoch an image has seen; 0 before the first."""
        try:
            return int(self._fence_path(target_path).read_text())
        except FileNotFoundError:
            return 0

    def raise_fence(self, target_path: str, epoch: int) -> None:
        """Refuse lower epochs for this image from now on."""
        write_state(self._fence_path(target_path), epoch)

    def _fence_path(self, target_path: str) -> Path:
        return self._fences / _name_of(target_path)


def _name_of(target_path: str) -> str:
    digest = hashlib.sha256(target_path.encode()).hexdigest()[:16]
    shown = re.sub(r"[^A-Za-z0-9._-]", "_", Path(target_path).name)[:80]
    return f"{shown}.{digest}"
