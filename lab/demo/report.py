"""The demo's result as JSON values and as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from cli.show.outcome import parts_in_order
from lab.demo.proof import Comparison, LastWrites
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

_MIB = 1024 * 1024


def migration_report(
    migration: pb.Migration,
    comparisons: Mapping[int, Comparison],
    last_writes: Mapping[int, LastWrites],
) -> dict[str, Any]:
    """One VM's entry in build/demo.json."""
    disks = [_disk(disk, comparisons, last_writes) for disk in migration.disks]
    return {
        "vm": migration.vm_name,
        "moref": migration.vm_moref,
        "state": pb.State.Name(migration.state).removeprefix("STATE_").lower(),
        "stages": [
            {
                "stage": pb.Stage.Name(entry.stage).removeprefix("STAGE_").lower(),
                "start": _time(entry.start_time),
                "seconds": _seconds(entry.start_time, entry.end_time),
            }
            for entry in migration.stage_times
        ],
        "passes": [
            {
                "number": entry.number,
                "kind": entry.kind,
                "changed_bytes": entry.changed_bytes,
                "read_bytes": entry.read_bytes,
                "written_bytes": entry.written_bytes,
                "seconds": _seconds(entry.start_time, entry.end_time),
            }
            for entry in migration.passes
        ],
        "downtime": {
            "seconds": round(migration.downtime.total_seconds, 1),
            "parts": {
                name: round(seconds, 1) for name, seconds in parts_in_order(migration.downtime)
            },
        },
        "disks": disks,
        "proven": bool(disks)
        and migration.state == pb.STATE_DONE
        and all(disk["identical"] for disk in disks)
        and all(disk["last_writes_found"] == disk["last_writes"] for disk in disks),
        "open_debts": migration.open_debts,
        "error": migration.error.message,
    }


def summary(result: Mapping[str, Any]) -> str:
    """A few lines for people."""
    lines = [""]
    for vm in result["vms"]:
        parts = ", ".join(
            f"{name} {seconds} s" for name, seconds in vm["downtime"]["parts"].items()
        )
        lines.append(f"{vm['vm']} ({vm['moref']}): {vm['state']}")
        lines.append(f"  downtime {vm['downtime']['seconds']} s: {parts}")
        for entry in vm["passes"]:
            lines.append(
                f"  pass {entry['number']} {entry['kind']:5} changed "
                f"{entry['changed_bytes'] / _MIB:8.1f} MiB in {entry['seconds']} s"
            )
        lines.extend(_disk_line(disk) for disk in vm["disks"])
        snapshots = ", ".join(vm["vcenter"]["snapshots"]) or "none"
        lines.append(f"  vCenter: {vm['vcenter']['power']}, snapshots: {snapshots}")
        target = vm.get("cloudstack")
        if target:
            lines.append(
                f"  CloudStack: {target['name']} is {target['state']}, "
                f"{len(target['volumes'])} volume(s), {len(target['nics'])} adapter(s)"
            )
        if vm["error"]:
            lines.append(f"  error: {vm['error']}")
    verdict = "PROVEN: every byte arrived" if result["proven"] else "NOT PROVEN, see above"
    lines.append(f"{verdict} ({result['seconds']} s)")
    return "\n".join(lines)


def _disk(
    disk: pb.DiskProgress,
    comparisons: Mapping[int, Comparison],
    last_writes: Mapping[int, LastWrites],
) -> dict[str, Any]:
    comparison = comparisons.get(disk.key)
    final = last_writes.get(disk.key, LastWrites(0, 0))
    return {
        "unit": disk.unit,
        "key": disk.key,
        "label": disk.label,
        "capacity_bytes": disk.capacity_bytes,
        "image": disk.target_path.rpartition("/")[2],
        "compared_bytes": comparison.compared_bytes if comparison else 0,
        "identical": comparison is not None and comparison.identical,
        "differs_at": comparison.differs_at if comparison else None,
        "last_writes": final.logged,
        "last_writes_found": final.found,
    }


def _disk_line(disk: Mapping[str, Any]) -> str:
    compared = f"{disk['compared_bytes'] / _MIB:.0f} of {disk['capacity_bytes'] / _MIB:.0f} MiB"
    if disk["identical"]:
        verdict = f"identical, {disk['last_writes_found']} last writes of the guest found"
    elif disk["differs_at"] is not None:
        verdict = f"DIFFERS at byte {disk['differs_at']}"
    else:
        verdict = "NOT COMPARED"
    return f"  {disk['label']}: {compared} compared, {verdict}"


def _time(value: Timestamp) -> str:
    return value.ToJsonString()


def _seconds(start: Timestamp, end: Timestamp) -> float | None:
    if not end.seconds:
        return None
    return round((end.ToMilliseconds() - start.ToMilliseconds()) / 1000, 2)
