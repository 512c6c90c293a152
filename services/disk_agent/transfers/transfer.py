"""A transfer at one moment, as a value and as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from services.disk_agent.engine.progress import Progress
from services.disk_agent.resources.record import State, next_revision
from services.disk_agent.transfer_failures import TransferCancelled
from services.disk_agent.worker.order import TransferOrder
from services.kit.failure import Failure


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
        """The id that the caller chose."""
        return self.order.transfer_id

    @property
    def cancellable(self) -> bool:
        """Whether a failed transfer may become CANCELLED: always, because its chunk map stays."""
        return True

    def changed(self, now: float, **changes: Any) -> Self:
        """A copy with changes and a higher revision."""
        return replace(self, revision=next_revision(self.revision, now), **changes)

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


def changes_at_end(end: Mapping[str, Any]) -> dict[str, Any]:
    """The changes to a transfer's record that follow from a worker's end event."""
    changes: dict[str, Any] = {"digest": end["digest"]}
    if end["progress"]:
        changes["progress"] = Progress.from_wire(end["progress"])
    failure = end["failure"]
    if failure is None:
        return {**changes, "state": State.SUCCEEDED}
    cancelled = failure["reason"] == TransferCancelled.reason
    changes["failure"] = Failure.from_wire(failure)
    return {**changes, "state": State.CANCELLED if cancelled else State.FAILED}
