"""Names, sizes and times of a migration in words, the same in every display."""

from collections.abc import Iterable

from v2c.orchestrator.v1 import orchestrator_pb2 as pb

__all__ = [
    "COPYING",
    "ENDED",
    "by_state",
    "count",
    "delta_passes",
    "duration",
    "rate",
    "size",
    "speed",
    "stage_name",
    "state_name",
    "vm_label",
]

ENDED = frozenset({pb.STATE_DONE, pb.STATE_FAILED, pb.STATE_CANCELLED, pb.STATE_ROLLED_BACK})
# The stages in which the disks' numbers are those of the pass at work.
COPYING = frozenset({pb.STAGE_BASE_COPY, pb.STAGE_DELTA, pb.STAGE_FINAL_SYNC, pb.STAGE_VERIFYING})
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def stage_name(stage: pb.Stage.ValueType) -> str:
    """``base_copy``, as in state.json and the REST API."""
    return pb.Stage.Name(stage).removeprefix("STAGE_").lower()


def state_name(state: pb.State.ValueType) -> str:
    """``running``, as in state.json and the REST API."""
    return pb.State.Name(state).removeprefix("STATE_").lower()


def vm_label(migration: pb.Migration) -> str:
    """The VM's name, or what is known of it."""
    return migration.vm_name or migration.vm_moref or migration.id


def size(value: float) -> str:
    """``159 MB``: decimal units, three significant digits."""
    unit = 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1000
        unit += 1
    if unit == 0 or value >= 99.95:
        return f"{value:.0f} {_UNITS[unit]}"
    return f"{value:.1f} {_UNITS[unit]}"


def rate(bytes_per_second: float) -> str:
    """``84.1 MB/s``; nothing for zero."""
    return f"{size(bytes_per_second)}/s" if bytes_per_second > 0 else ""


def speed(migration: pb.Migration) -> str:
    """The rate of one that runs; the others' numbers are those of their last step."""
    running = migration.state == pb.STATE_RUNNING
    return rate(migration.transfer_rate_bytes_per_second) if running else ""


def duration(seconds: float) -> str:
    """``0:42``, ``12:05`` or ``1:02:03``."""
    whole = max(0, int(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours}:{minutes:02}:{whole % 60:02}"
    return f"{minutes}:{whole % 60:02}"


def count(number: int, singular: str) -> str:
    """``1 VM``, ``2 VMs``."""
    return f"{number} {singular}" if number == 1 else f"{number} {singular}{_plural(singular)}"


def _plural(singular: str) -> str:
    return "es" if singular.endswith("s") else "s"


def delta_passes(migration: pb.Migration) -> str:
    """``2 delta passes``; nothing before the first."""
    return count(migration.delta_passes, "delta pass") if migration.delta_passes else ""


def by_state(migrations: Iterable[pb.Migration]) -> str:
    """``1 running, 1 done`` in the order of the states."""
    states = [migration.state for migration in migrations]
    return ", ".join(f"{states.count(state)} {state_name(state)}" for state in sorted(set(states)))
