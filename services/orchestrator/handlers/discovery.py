"""The first stages: admission from the queue, connections, the machine, its disks and adapters."""

from dataclasses import asdict

from sqlalchemy import Select, func, or_, select

from services.orchestrator.database import tables
from services.orchestrator.database.runtime_dir import RuntimeDir, directory_name
from services.orchestrator.database.store import add_event
from services.orchestrator.errors import MigrationExists, SpecMismatch, VmNotMigratable
from services.orchestrator.markers import remove_marker, requests_in
from services.orchestrator.ports.vmware import Severity, SourceDisk, SourceVm
from services.orchestrator.stages import TERMINAL, Stage, State
from services.orchestrator.tick import Advance, Outcome, Tick, Wait

__all__ = ["admit", "connect", "discover_disks", "find_vm"]

_ADMISSION_POLL_SECONDS = 2.0
_ADMISSION_LONGEST_SECONDS = 60.0


def admit(tick: Tick) -> Outcome:
    """Wait for a slot for the full copy; slots are given in the order of submission.

    Delta passes and cutovers need no slot, because they must not wait.
    """
    limit = int(tick.store.setting("parallel_vms", str(tick.config.migration.parallel_vms)))
    with tick.change() as (session, migration):
        taken = session.scalar(
            select(func.count())
            .select_from(tables.Migration)
            .where(
                tables.Migration.admitted,
                tables.Migration.id != migration.id,
                tables.Migration.state.not_in([*TERMINAL, State.FAILED, State.PAUSED]),
            )
        )
        ahead = session.scalar(_ahead(migration)) or 0
        if (taken or 0) + ahead < limit:
            migration.admitted = True
            return Advance(Stage.CONNECTING_VCENTER)
    activity = f"waits for one of {limit} slots (migration.parallel_vms)"
    # The farther back in the queue, the longer the pause: a thousand waiting machines must cost
    # little.
    seconds = min(_ADMISSION_POLL_SECONDS * (1 + ahead // limit), _ADMISSION_LONGEST_SECONDS)
    return Wait(seconds, activity, State.QUEUED)


def _ahead(migration: tables.Migration) -> Select[int]:
    """A query that counts the machines in the queue that were submitted before this one."""
    other = tables.Migration
    same_time = (other.create_time == migration.create_time) & (other.id < migration.id)
    return (
        select(func.count())
        .select_from(other)
        .where(
            other.started,
            other.state == State.QUEUED,
            other.admitted.is_(False),
            or_(other.create_time < migration.create_time, same_time),
        )
    )


def connect(tick: Tick) -> Outcome:
    """Check that vCenter, CloudStack and the storage host answer before anything is changed."""
    thumbprint = tick.agents.vmware.thumbprint()
    tick.agents.cloudstack.check()
    tick.agents.disk.check()
    with tick.change() as (_, migration):
        migration.source = {**migration.source, "thumbprint": thumbprint}
    return Advance(Stage.FINDING_VM)


def find_vm(tick: Tick) -> Outcome:
    """Find the machine and open its runtime directory."""
    found = tick.agents.vmware.get_vm(
        moref=tick.loaded.vm_moref or tick.spec.moref or "",
        name="" if tick.loaded.vm_moref else tick.spec.name,
    )
    other = tick.store.other_open(tick.id, found.moref)
    if other:
        raise MigrationExists(
            message=f"{found.name} ({found.moref}) has a migration already: {other}"
        )
    directory = RuntimeDir(
        tick.config.migration.control_dir / directory_name(found.name, found.moref)
    )
    directory.create()
    if not tick.loaded.runtime_dir:
        # Marker files of an earlier migration of this machine are not requests to this one.
        for request in requests_in(directory.path):
            remove_marker(directory.path, request)
    directory.write_spec(tick.loaded.spec)
    with tick.change() as (session, migration):
        migration.vm_moref = found.moref
        migration.vm_name = found.name
        migration.runtime_dir = str(directory.path)
        migration.source = {**migration.source, "instance_uuid": found.instance_uuid}
        add_event(
            session,
            tick.store.clock,
            migration,
            "vm.found",
            f"found {found.path}",
            moref=found.moref,
        )
    return Advance(Stage.DISCOVERING_VMWARE_DISKS)


def discover_disks(tick: Tick) -> Outcome:
    """Read disks and adapters; refuse a machine that cannot be migrated as its spec asks."""
    found = tick.agents.vmware.get_vm(moref=tick.loaded.vm_moref)
    _check_migratable(tick, found)
    _check_spec(tick, found)
    with tick.change() as (session, migration):
        migration.source = {
            **migration.source,
            "power": found.power,
            "guest": found.guest,
            "firmware": found.firmware,
            "secure_boot": found.secure_boot,
            "cpu_count": found.cpu_count,
            "memory_bytes": found.memory_bytes,
            "nics": [asdict(nic) for nic in found.nics],
        }
        # The disk with the lowest unit is the boot disk: firmware tries disks in that order.
        root = min(found.disks, key=lambda d: d.unit)
        for disk in found.disks:
            session.merge(_row(tick, disk, is_root=disk is root))
    return Advance(Stage.PREPARING_TARGET_STORAGE)


def _row(tick: Tick, disk: SourceDisk, *, is_root: bool) -> tables.Disk:
    return tables.Disk(
        migration_id=tick.id,
        key=disk.key,
        unit=disk.unit,
        label=disk.label,
        source_path=disk.path,
        capacity_bytes=disk.capacity_bytes,
        used_bytes=disk.used_bytes,
        is_root=is_root,
    )


def _check_migratable(tick: Tick, found: SourceVm) -> None:
    if not found.disks:
        raise VmNotMigratable(
            message=f"{found.name} ({found.moref}) has no disks",
            hint="a machine without disks is created in CloudStack directly",
        )
    unsupported = [d for d in found.disks if d.unsupported_reason]
    if unsupported:
        listed = "; ".join(
            f"{d.label} (unit {d.unit}): {d.unsupported_reason}" for d in unsupported
        )
        raise VmNotMigratable(
            message=f"{found.name} has disks that no snapshot covers: {listed}",
            hint="make them dependent, or detach them and migrate their data by other means",
        )
    for finding in tick.agents.vmware.check_vm(found.moref):
        if finding.severity is Severity.ERROR:
            raise VmNotMigratable(
                message=f"{found.name}: {finding.message}",
                hint=finding.hint or None,
                metadata={"finding": finding.name},
            )
        tick.event("vm.finding", finding.message, finding=finding.name, severity=finding.severity)


def _check_spec(tick: Tick, found: SourceVm) -> None:
    """Raise SpecMismatch unless the machine has every disk and adapter that the spec names."""
    units = {str(d.unit) for d in found.disks}
    wrong_disks = sorted(set(tick.spec.disks) - units)
    if wrong_disks:
        valid = ", ".join(f'"{d.unit}" ({d.label})' for d in found.disks)
        raise SpecMismatch(
            message=f'disks["{wrong_disks[0]}"]: {found.name} has no disk of that unit; '
            f"it has {valid}"
        )
    keys = {str(nic.key) for nic in found.nics}
    wrong_nics = sorted(set(tick.spec.nic_mappings) - keys)
    if wrong_nics:
        valid = ", ".join(f'"{nic.key}" ({nic.label})' for nic in found.nics) or "none"
        raise SpecMismatch(
            message=f'target.cloudstack.nic_mappings["{wrong_nics[0]}"]: {found.name} '
            f"has no adapter of that device key; it has {valid}"
        )
    networks = [tick.spec.network(nic.key, nic.index) for nic in found.nics]
    mapped = [network for network in networks if network]
    if len(mapped) != len(set(mapped)):
        raise SpecMismatch(
            message=f"two adapters of {found.name} are mapped to one network; CloudStack allows "
            "one adapter per network and machine",
            hint="give them different networks in target.cloudstack.nic_mappings",
        )
    for nic, network in zip(found.nics, networks, strict=True):
        if network is None:
            tick.event(
                "nic.left_out",
                f"{nic.label} ({nic.network}) has no mapping and is not migrated",
                device_key=nic.key,
            )
