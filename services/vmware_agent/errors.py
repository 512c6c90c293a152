"""The VMware agent's errors: one class for each reason.

Every class fixes its code, its reason, whether the same call may be repeated, and a hint.
`vcenter.faults` translates faults of vCenter to these.
"""

from services.kit.failure import Code, ServiceError
from services.vmware_agent.vm import Disk, VmEntry


class VCenterUnreachable(ServiceError):
    """vCenter cannot be connected to, or the connection broke (network, restart, host down)."""

    code = Code.UNAVAILABLE
    reason = "VCENTER_UNREACHABLE"
    retryable = True
    hint = "check vcenter.host and vcenter.port, and that vCenter answers on that address"


class VCenterUntrusted(ServiceError):
    """vCenter's certificate is not one that the configuration trusts."""

    code = Code.FAILED_PRECONDITION
    reason = "VCENTER_UNTRUSTED"
    hint = (
        "set vcenter.thumbprint to the certificate's fingerprint after checking it on vCenter "
        "itself, or vcenter.ca_file to the CA that signed it"
    )


class VCenterLoginFailed(ServiceError):
    """vCenter refused user and password, or the account may not log in."""

    code = Code.FAILED_PRECONDITION
    reason = "VCENTER_LOGIN_FAILED"
    hint = (
        "correct vcenter.user and vcenter.password (or VC_PASSWORD); the user's name usually "
        "needs its domain, as in administrator@vsphere.local"
    )


class VCenterPermissionDenied(ServiceError):
    """The account lacks a privilege; metadata `privilege` names it when vCenter did."""

    code = Code.PERMISSION_DENIED
    reason = "VCENTER_PERMISSION_DENIED"
    hint = "grant vcenter.user the privilege on the object, or on a folder above it"


class VCenterBusy(ServiceError):
    """Another task of the VM did not end before the call's deadline."""

    code = Code.ABORTED
    reason = "VCENTER_BUSY"
    retryable = True
    hint = "look in vCenter which task runs on this VM (a backup, a consolidation) and let it end"


class VCenterTimeout(ServiceError):
    """A task did not end before the call's deadline. It continues in vCenter."""

    code = Code.DEADLINE_EXCEEDED
    reason = "VCENTER_TIMEOUT"
    retryable = True
    hint = "look at the task in vCenter; repeating the call is safe, it finds the task's result"


class VCenterFault(ServiceError):
    """vCenter reported a fault that has no other reason here; metadata `fault` has its type."""

    code = Code.FAILED_PRECONDITION
    reason = "VCENTER_FAULT"
    hint = "look for the task in vCenter's recent tasks and events"


class VmNotFound(ServiceError):
    """No such VM; metadata `nearest` lists similar names."""

    code = Code.NOT_FOUND
    reason = "VM_NOT_FOUND"
    hint = "check vm.name or vm.moref in the spec against the inventory"


class AmbiguousVmName(ServiceError):
    """Several VMs have the name."""

    code = Code.FAILED_PRECONDITION
    reason = "AMBIGUOUS_VM_NAME"
    hint = "set vm.moref in the spec to the one you mean"

    @classmethod
    def of(cls, name: str, candidates: tuple[VmEntry, ...]) -> "AmbiguousVmName":
        """The error for `candidates`, each listed by moref and path."""
        listed = ", ".join(f"{vm.moref} ({vm.path})" for vm in candidates)
        return cls(
            message=f"{len(candidates)} VMs are named {name!r}: {listed}",
            metadata={
                "name": name,
                "candidates": ",".join(vm.moref for vm in candidates),
            },
        )


class VmIdentityMismatch(ServiceError):
    """The moref exists but is that of another VM than the one named."""

    code = Code.FAILED_PRECONDITION
    reason = "VM_IDENTITY_MISMATCH"
    hint = "correct vm.name or vm.moref in the spec, so that both name the same VM"


class InvalidQuery(ServiceError):
    """An argument of the call is missing or out of range, or two contradict each other."""

    code = Code.INVALID_ARGUMENT
    reason = "INVALID_QUERY"
    hint = "correct the argument that the message names"


class CbtUnsupported(ServiceError):
    """The VM or some of its disks do not support CBT; metadata `disks` has the disks' keys."""

    code = Code.FAILED_PRECONDITION
    reason = "CBT_UNSUPPORTED"
    hint = "change the disks' mode or sharing while the VM is off, or leave the disks out"

    @classmethod
    def for_disks(cls, vm: str, disks: tuple[Disk, ...]) -> "CbtUnsupported":
        """The error that names every disk of `vm` that does not support CBT, and why."""
        obstacles = "; ".join(
            f"{disk.label} ({disk.address}) {obstacle.value}"
            for disk in disks
            for obstacle in disk.obstacles
        )
        return cls(
            message=f"changed block tracking of VM {vm!r} cannot cover all disks: {obstacles}",
            metadata={"disks": ",".join(str(disk.key) for disk in disks)},
        )


class CbtReset(ServiceError):
    """vCenter cannot report what changed since a change id: the whole disk has to be compared.

    metadata: `disk` (device key) and `cause`, one of file_fault, invalid_argument, no_change_id,
    uuid_changed, malformed_answer.
    """

    code = Code.FAILED_PRECONDITION
    reason = "CBT_RESET"
    hint = "re-sync the disk; a migration does so by itself and then continues"

    @classmethod
    def of(cls, disk_key: int, cause: str, message: str) -> "CbtReset":
        """The error for one disk."""
        return cls(message=message, metadata={"disk": str(disk_key), "cause": cause})


class SnapshotNotFound(ServiceError):
    """The snapshot does not exist, or no longer exists."""

    code = Code.NOT_FOUND
    reason = "SNAPSHOT_NOT_FOUND"
    hint = "create the snapshot again; a pass continues from the disks' change ids"


class DiskNotFound(ServiceError):
    """The VM or the snapshot has no such disk."""

    code = Code.NOT_FOUND
    reason = "DISK_NOT_FOUND"
    hint = "read the VM's disks again: the device keys are listed there"


class SnapshotLimit(ServiceError):
    """The VM has as many snapshot levels as vSphere allows (32)."""

    code = Code.FAILED_PRECONDITION
    reason = "SNAPSHOT_LIMIT"
    hint = "delete or consolidate old snapshots of the VM in vCenter"


class QuiesceFailed(ServiceError):
    """The guest could not be quiesced, and migration.snapshot_quiesce requires it."""

    code = Code.FAILED_PRECONDITION
    reason = "QUIESCE_FAILED"
    retryable = True
    hint = (
        "set migration.snapshot_quiesce to auto or false (the copy is then like one after a power "
        "loss), or repair VMware Tools or the guest's VSS writers"
    )


class DatastoreFull(ServiceError):
    """The datastore has no space for a snapshot's delta or a consolidation."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "DATASTORE_FULL"
    hint = "free space on the VM's datastore"


class ConsolidationNeeded(ServiceError):
    """The VM's disks could not be consolidated before the call's deadline."""

    code = Code.FAILED_PRECONDITION
    reason = "CONSOLIDATION_NEEDED"
    retryable = True
    hint = "consolidate the VM's disks in vCenter; a backup tool may hold one of its files"


class ToolsNotRunning(ServiceError):
    """VMware Tools, without which the guest cannot be shut down, do not run in it."""

    code = Code.FAILED_PRECONDITION
    reason = "TOOLS_NOT_RUNNING"
    hint = "start VMware Tools in the guest, shut it down from inside, or power the VM off"


class WrongPowerState(ServiceError):
    """The VM's power state does not allow the operation."""

    code = Code.FAILED_PRECONDITION
    reason = "WRONG_POWER_STATE"
    hint = "check the VM's power state in vCenter and repeat the call"
