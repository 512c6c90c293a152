"""Checks a VM for obstacles to a warm migration, and for what makes it slower or riskier."""

from collections.abc import Iterator

from services.vmware_agent.cbt import OLDEST_HARDWARE_VERSION, is_tracked
from services.vmware_agent.findings import Finding, FindingKind
from services.vmware_agent.vm import DiskObstacle, PowerState, Vm

# vSphere allows 32 levels: one is needed for the migration, another perhaps for a backup.
_MANY_SNAPSHOTS = 30

_OBSTACLES = {
    DiskObstacle.INDEPENDENT: FindingKind.DISK_INDEPENDENT,
    DiskObstacle.PHYSICAL_RDM: FindingKind.DISK_PHYSICAL_RDM,
    DiskObstacle.SHARED_BUS: FindingKind.DISK_SHARED_BUS,
    DiskObstacle.MULTI_WRITER: FindingKind.DISK_MULTI_WRITER,
    DiskObstacle.RAW_DISK: FindingKind.DISK_RAW,
    DiskObstacle.UNKNOWN_BACKING: FindingKind.DISK_UNKNOWN_BACKING,
}


def check_vm(vm: Vm) -> tuple[Finding, ...]:
    """All findings about a VM, the most serious first."""
    findings = [*_machine(vm), *_disks(vm), *_snapshots(vm), *_guest(vm)]
    return tuple(sorted(findings, key=lambda finding: -finding.kind.severity.value))


def _machine(vm: Vm) -> Iterator[Finding]:
    if vm.template:
        yield FindingKind.TEMPLATE.found()
    if not vm.disks:
        yield FindingKind.NO_DISKS.found()
    if vm.hardware_version < OLDEST_HARDWARE_VERSION:
        yield FindingKind.HARDWARE_TOO_OLD.found(
            f"Virtual hardware version {vm.hardware_version} has no changed block tracking."
        )
    elif not vm.tracking_supported:
        yield FindingKind.CBT_UNSUPPORTED.found()
    if vm.encrypted:
        yield FindingKind.ENCRYPTED.found()
    if vm.has_vtpm:
        yield FindingKind.VTPM.found()
    for label in vm.passthrough_devices:
        yield FindingKind.PASSTHROUGH_DEVICE.found(
            f"{label} is a device of its ESXi host, which cannot be moved."
        )


def _disks(vm: Vm) -> Iterator[Finding]:
    for disk in vm.disks:
        for obstacle in disk.obstacles:
            yield _OBSTACLES[obstacle].found(f"{disk.label} ({disk.address}) {obstacle.value}.")
        if vm.tracking_enabled and not disk.obstacles and not is_tracked(vm, disk):
            yield FindingKind.DISK_TRACKING_OFF.found(
                f"Tracking is on for the VM but off for {disk.label} ({disk.address})."
            )


def _snapshots(vm: Vm) -> Iterator[Finding]:
    foreign = [snapshot for snapshot in vm.all_snapshots() if not snapshot.ours]
    ours = [snapshot for snapshot in vm.all_snapshots() if snapshot.ours]
    if len(foreign) >= _MANY_SNAPSHOTS:
        yield FindingKind.TOO_MANY_SNAPSHOTS.found(
            f"It has {len(foreign)} snapshots, close to vSphere's limit of 32."
        )
    elif foreign:
        yield FindingKind.EXISTING_SNAPSHOTS.found(
            f"It has {len(foreign)} snapshots: reads are slower, and vCenter may not know "
            "the areas in use."
        )
    if ours:
        names = ", ".join(snapshot.name for snapshot in ours)
        yield FindingKind.OUR_SNAPSHOTS.found(f"It has snapshots of a migration: {names}.")
    if vm.consolidation_needed:
        yield FindingKind.CONSOLIDATION_NEEDED.found()


def _guest(vm: Vm) -> Iterator[Finding]:
    if vm.power is PowerState.SUSPENDED:
        yield FindingKind.SUSPENDED.found()
    if vm.power is PowerState.ON and not vm.tools_running:
        yield FindingKind.TOOLS_NOT_RUNNING.found()
