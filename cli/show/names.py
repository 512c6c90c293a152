"""What migrations, their stages and their states are called, the same in every display."""

from collections.abc import Iterable

from cli.show.units import count, rate
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

__all__ = [
    "ENDED",
    "PASS_STAGES",
    "by_state",
    "delta_passes",
    "speed",
    "stage_name",
    "state_name",
    "vm_label",
]

ENDED = frozenset({pb.STATE_DONE, pb.STATE_FAILED, pb.STATE_CANCELLED, pb.STATE_ROLLED_BACK})
# The stages in which the disks' numbers are those of the pass at work.
PASS_STAGES = frozenset(
    {pb.STAGE_BASE_COPY, pb.STAGE_DELTA, pb.STAGE_FINAL_SYNC, pb.STAGE_VERIFYING}
)


def stage_name(stage: pb.Stage.ValueType) -> str:
    """``base_copy``, as in state.json and the REST API."""
    return pb.Stage.Name(stage).removeprefix("STAGE_").lower()


def state_name(state: pb.State.ValueType) -> str:
    """``running``, as in state.json and the REST API."""
    return pb.State.Name(state).removeprefix("STATE_").lower()


def vm_label(migration: pb.Migration) -> str:
    """The VM's name, or what is known of it."""
    return migration.vm_name or migration.vm_moref or migration.id


def speed(migration: pb.Migration) -> str:
    """The rate of one that runs; the others' numbers are those of their last step."""
    running = migration.state == pb.STATE_RUNNING
    return rate(migration.transfer_rate_bytes_per_second) if running else ""


def delta_passes(migration: pb.Migration) -> str:
    """``2 delta passes``; nothing before the first."""
    return count(migration.delta_passes, "delta pass") if migration.delta_passes else ""


def by_state(migrations: Iterable[pb.Migration]) -> str:
    """``1 running, 1 done`` in the order of the states."""
    states = [migration.state for migration in migrations]
    return ", ".join(f"{states.count(state)} {state_name(state)}" for state in sorted(set(states)))
