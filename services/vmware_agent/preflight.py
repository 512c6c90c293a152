"""What would keep a VM from being migrated warm, or make it worse than it could be."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from services.vmware_agent.cbt import OLDEST_HARDWARE_VERSION, is_tracked
from services.vmware_agent.vm import DiskObstacle, PowerState, Vm

# vSphere allows 32 levels; one is ours, and a backup may need one at the same time.
_MANY_SNAPSHOTS = 30


class Severity(Enum):
    """How bad a finding is; worst first."""

    ERROR = 3
    WARNING = 2
    INFO = 1


@dataclass(frozen=True)
class Finding:
    """One result: an UPPER_SNAKE name, a sentence for a person, and the next step."""

    name: str
    severity: Severity
    message: str
    hint: str


def check_vm(vm: Vm) -> tuple[Finding, ...]:
    """Everything worth telling about a VM before its migration, worst first."""
    findings = [*_machine(vm), *_disks(vm), *_snapshots(vm), *_guest(vm)]
    return tuple(sorted(findings, key=lambda finding: -finding.severity.value))


def _machine(vm: Vm) -> Iterator[Finding]:
    if vm.template:
        yield Finding(
            "TEMPLATE",
            Severity.ERROR,
            "It is a template, not a virtual machine.",
            "Convert it to a virtual machine first.",
        )
    if not vm.disks:
        yield Finding(
            "NO_DISKS",
            Severity.ERROR,
            "It has no virtual disk.",
            "There is nothing to migrate: create the VM on the target instead.",
        )
    if vm.hardware_version < OLDEST_HARDWARE_VERSION:
        yield Finding(
            "HARDWARE_TOO_OLD",
            Severity.ERROR,
            f"Virtual hardware version {vm.hardware_version} has no changed block tracking.",
            f"Upgrade its compatibility to {OLDEST_HARDWARE_VERSION} or later while it is off.",
        )
    elif not vm.tracking_supported:
        yield Finding(
            "CBT_UNSUPPORTED",
            Severity.ERROR,
            "vCenter does not support changed block tracking for it.",
            "Check the host's version and license, and whether fault tolerance is on.",
        )
    if vm.encrypted:
        yield Finding(
            "ENCRYPTED",
            Severity.WARNING,
            "It has disks encrypted by vSphere: its host decrypts them only for accounts that may.",
            "Grant vcenter.user Cryptographic operations > Direct Access, or decrypt the VM first.",
        )
    if vm.has_vtpm:
        yield Finding(
            "VTPM",
            Severity.WARNING,
            "It has a virtual TPM, whose secrets cannot be moved.",
            "Have the recovery keys of encrypted volumes (BitLocker) at hand, or suspend it first.",
        )
    for label in vm.passthrough_devices:
        yield Finding(
            "PASSTHROUGH_DEVICE",
            Severity.WARNING,
            f"{label} belongs to its ESXi host and stays there.",
            "Remove the device, or plan for the guest to run without it.",
        )


def _disks(vm: Vm) -> Iterator[Finding]:
    names = {
        DiskObstacle.INDEPENDENT: "DISK_INDEPENDENT",
        DiskObstacle.PHYSICAL_RDM: "DISK_PHYSICAL_RDM",
        DiskObstacle.SHARED_BUS: "DISK_SHARED_BUS",
        DiskObstacle.MULTI_WRITER: "DISK_MULTI_WRITER",
        DiskObstacle.RAW_DISK: "DISK_RAW",
        DiskObstacle.UNKNOWN_BACKING: "DISK_UNKNOWN_BACKING",
    }
    for disk in vm.disks:
        for obstacle in disk.obstacles:
            yield Finding(
                names[obstacle],
                Severity.ERROR,
                f"{disk.label} ({disk.address}) {obstacle.value}.",
                "Change the disk's mode or sharing while the VM is off, or detach it.",
            )
        if vm.tracking_enabled and not disk.obstacles and not is_tracked(vm, disk):
            yield Finding(
                "DISK_TRACKING_OFF",
                Severity.INFO,
                f"Tracking is on for the VM but off for {disk.label} ({disk.address}).",
                "Nothing to do: it is switched on before the first snapshot.",
            )


def _snapshots(vm: Vm) -> Iterator[Finding]:
    foreign = [snapshot for snapshot in vm.all_snapshots() if not snapshot.ours]
    orphans = [snapshot for snapshot in vm.all_snapshots() if snapshot.ours]
    if len(foreign) >= _MANY_SNAPSHOTS:
        yield Finding(
            "TOO_MANY_SNAPSHOTS",
            Severity.ERROR,
            f"It has {len(foreign)} snapshots, close to vSphere's limit of 32.",
            "Delete or consolidate old snapshots.",
        )
    elif foreign:
        yield Finding(
            "EXISTING_SNAPSHOTS",
            Severity.WARNING,
            f"It has {len(foreign)} snapshots: reads are slower, and areas in use may be unknown.",
            "Delete those that are not needed before the migration.",
        )
    if orphans:
        told = ", ".join(snapshot.name for snapshot in orphans)
        yield Finding(
            "OUR_SNAPSHOTS",
            Severity.WARNING,
            f"It has snapshots of a migration: {told}.",
            "Let the running migration end, or remove them if none is running.",
        )
    if vm.consolidation_needed:
        yield Finding(
            "CONSOLIDATION_NEEDED",
            Severity.WARNING,
            "vCenter asks for its disks to be consolidated.",
            "Consolidate its disks in vCenter before the migration.",
        )


def _guest(vm: Vm) -> Iterator[Finding]:
    if vm.power is PowerState.SUSPENDED:
        yield Finding(
            "SUSPENDED",
            Severity.ERROR,
            "It is suspended: its disks are not consistent without its memory.",
            "Resume it, or power it off and lose what it had in memory.",
        )
    if vm.power is PowerState.ON and not vm.tools_running:
        yield Finding(
            "TOOLS_NOT_RUNNING",
            Severity.WARNING,
            "VMware Tools do not run: snapshots are crash-consistent, and the guest cannot be "
            "asked to shut down.",
            "Start VMware Tools, or use shutdown mode manual or force.",
        )
