"""How a migration ended, in one line."""

from collections.abc import Mapping

from cli.show.names import ENDED, delta_passes, stage_name, state_name, vm_label
from cli.show.units import count, duration, size
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

__all__ = ["downtime_parts", "error_values", "outcome", "parts_in_order"]

_LONGEST_VALUE = 100


def outcome(migration: pb.Migration) -> str:
    """``web01: done, downtime 0:42 (final_sync 3 s, …), CloudStack VM 7c…`` or why it failed."""
    label = vm_label(migration)
    stage = stage_name(migration.stage)
    if migration.state == pb.STATE_DONE:
        text = f"{label}: done"
        if migration.HasField("downtime"):
            text += f", downtime {duration(migration.downtime.total_seconds)}"
            parts = downtime_parts(migration.downtime)
            text += f" ({parts})" if parts else ""
        if migration.delta_passes:
            text += f", {delta_passes(migration)}"
        if migration.target_vm_id:
            text += f", CloudStack VM {migration.target_vm_id}"
        return text + _debts(migration)
    if migration.state == pb.STATE_FAILED:
        error = migration.error
        text = f"{label}: failed in {stage}: {error.message.rstrip('.')}"
        if values := error_values(error.message, error.metadata):
            text += f" ({values})"
        if error.hint:
            text += f". {error.hint[0].upper()}{error.hint[1:].rstrip('.')}"
        text += f". Then repeat v2c run or, where v2c serve runs, v2c retry --vm {_quoted(label)}"
        if migration.open_debts:
            things = count(migration.open_debts, "thing")
            text += f". Still to be cleaned up: {things}, see v2c status"
        return text
    if migration.state in ENDED:
        return f"{label}: {state_name(migration.state)} in {stage}" + _debts(migration)
    return f"{label}: left in {stage}; its state is kept"


def error_values(message: str, metadata: Mapping[str, str]) -> str:
    """``free 1.2 GB, needed 5.0 GB, errno ENOSPC``: what the message does not have already.

    Ids of internal things and long lists are left to ``--json``.
    """
    shown = []
    for key, value in sorted(metadata.items()):
        if key.endswith("_bytes") and value.isdecimal():
            key, value = key.removesuffix("_bytes"), size(int(value))
        if key.endswith("_id") or not 0 < len(value) <= _LONGEST_VALUE or value in message:
            continue
        shown.append(f"{key.replace('_', ' ')} {value}")
    return ", ".join(shown)


def downtime_parts(downtime: pb.Downtime) -> str:
    """``shutdown 5 s, final_sync 3 s``, the parts that took any time."""
    parts = parts_in_order(downtime)
    return ", ".join(f"{name} {seconds:.0f} s" for name, seconds in parts if seconds >= 0.5)


def parts_in_order(downtime: pb.Downtime) -> list[tuple[str, float]]:
    """The downtime's parts and their seconds: the shutdown, then stages, as they follow."""
    return sorted(downtime.part_seconds.items(), key=lambda part: _when(part[0]))


def _when(part: str) -> int:
    """When a part comes; a stage of a newer server comes last."""
    order = {stage_name(stage): stage for stage in pb.Stage.values()}
    return 0 if part == "shutdown" else order.get(part, len(order))


def _debts(migration: pb.Migration) -> str:
    if not migration.open_debts:
        return ""
    return f", {count(migration.open_debts, 'thing')} still to be cleaned up"


def _quoted(label: str) -> str:
    return f"'{label}'" if " " in label else label
