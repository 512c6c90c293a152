"""The kinds of findings of the check of a VM before its migration, with meanings and hints."""

from dataclasses import dataclass
from enum import Enum, unique

from services.vmware_agent.cbt import OLDEST_HARDWARE_VERSION

_CHANGE_DISK = "Change the disk's mode or sharing while the VM is off, or detach it."


class Severity(Enum):
    """How serious a finding is; the most serious first."""

    ERROR = 3
    WARNING = 2
    INFO = 1


@unique
class FindingKind(Enum):
    """One kind of finding; the member's name is the finding's name and is public.

    `meaning` and `hint` are sentences for operators, also listed in the documentation of errors.
    """

    TEMPLATE = (
        Severity.ERROR,
        "It is a template, not a virtual machine.",
        "Convert it to a virtual machine first.",
    )
    NO_DISKS = (
        Severity.ERROR,
        "It has no virtual disk.",
        "There is nothing to migrate: create the VM on the target instead.",
    )
    HARDWARE_TOO_OLD = (
        Severity.ERROR,
        "Its virtual hardware version has no changed block tracking.",
        f"Upgrade its compatibility to {OLDEST_HARDWARE_VERSION} or later while it is off.",
    )
    CBT_UNSUPPORTED = (
        Severity.ERROR,
        "vCenter does not support changed block tracking for it.",
        "Check the host's version and license, and whether fault tolerance is on.",
    )
    ENCRYPTED = (
        Severity.WARNING,
        "It has disks encrypted by vSphere; hosts decrypt them only for accounts with a privilege.",
        "Grant vcenter.user Cryptographic operations > Direct Access, or decrypt the VM first.",
    )
    VTPM = (
        Severity.WARNING,
        "It has a virtual TPM, whose secrets cannot be moved.",
        "Have the recovery keys of volumes encrypted by BitLocker ready, or suspend it first.",
    )
    PASSTHROUGH_DEVICE = (
        Severity.WARNING,
        "It has a device of its ESXi host, which cannot be moved.",
        "Remove the device, or plan for the guest to run without it.",
    )
    DISK_INDEPENDENT = (
        Severity.ERROR,
        "A disk is independent, so snapshots do not cover it.",
        _CHANGE_DISK,
    )
    DISK_PHYSICAL_RDM = (
        Severity.ERROR,
        "A disk is a raw device mapping in physical mode, so snapshots do not cover it.",
        _CHANGE_DISK,
    )
    DISK_SHARED_BUS = (
        Severity.ERROR,
        "A disk is on a controller with SCSI bus sharing, which forbids snapshots.",
        _CHANGE_DISK,
    )
    DISK_MULTI_WRITER = (
        Severity.ERROR,
        "A disk is shared by several VMs (multi-writer), which forbids snapshots.",
        _CHANGE_DISK,
    )
    DISK_RAW = (
        Severity.ERROR,
        "A disk is a raw device of its host, which has no changed block tracking.",
        _CHANGE_DISK,
    )
    DISK_UNKNOWN_BACKING = (
        Severity.ERROR,
        "A disk has a backing that has no changed block tracking.",
        _CHANGE_DISK,
    )
    DISK_TRACKING_OFF = (
        Severity.INFO,
        "Tracking is on for the VM but off for one of its disks.",
        "No action is needed: tracking is switched on before the first snapshot.",
    )
    TOO_MANY_SNAPSHOTS = (
        Severity.ERROR,
        "It has almost as many snapshots as vSphere allows (32).",
        "Delete or consolidate old snapshots.",
    )
    EXISTING_SNAPSHOTS = (
        Severity.WARNING,
        "It has snapshots: reads are slower, and vCenter may not know the areas in use.",
        "Before the migration, delete snapshots that are not needed.",
    )
    OUR_SNAPSHOTS = (
        Severity.WARNING,
        "It has snapshots of a migration.",
        "Let the running migration end, or remove them if none is running.",
    )
    CONSOLIDATION_NEEDED = (
        Severity.WARNING,
        "vCenter asks for its disks to be consolidated.",
        "Consolidate its disks in vCenter before the migration.",
    )
    SUSPENDED = (
        Severity.ERROR,
        "It is suspended: without its memory its disks are not consistent.",
        "Resume it, or power it off, which loses the contents of its memory.",
    )
    TOOLS_NOT_RUNNING = (
        Severity.WARNING,
        "VMware Tools do not run: snapshots are crash-consistent, and the guest cannot be asked "
        "to shut down.",
        "Start VMware Tools, or use shutdown mode manual or force.",
    )

    def __init__(self, severity: Severity, meaning: str, hint: str) -> None:
        self.severity = severity
        self.meaning = meaning
        self.hint = hint

    def found(self, message: str = "") -> "Finding":
        """A finding of this kind, with `message`, or without one with the kind's meaning."""
        return Finding(self, message or self.meaning)


@dataclass(frozen=True)
class Finding:
    """One result of a check: its kind, and a sentence for operators."""

    kind: FindingKind
    message: str
