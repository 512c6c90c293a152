"""Changed block tracking (CBT): whether a VM can have it, has it, and turning it on.

Rules from VMware's "Virtual Disk API Programming Guide" and KB 1020128: hardware version 7 or
later, `capability.changeTrackingSupported`, and no disk that snapshots leave out. What is turned
on takes effect when the VM is next stunned: at power-on, resume, or a snapshot.
"""

from collections.abc import Sequence

from services.vmware_agent.errors import CbtUnsupported, VCenterBusy
from services.vmware_agent.ports import Clock, VCenter
from services.vmware_agent.vm import Disk, Vm
from services.vmware_agent.waiting import Backoff, Deadline

OLDEST_HARDWARE_VERSION = 7


def untrackable_disks(vm: Vm) -> tuple[Disk, ...]:
    """The disks that keep the VM from being tracked as a whole."""
    return tuple(disk for disk in vm.disks if disk.obstacles)


def untracked_disks(vm: Vm) -> tuple[Disk, ...]:
    """Disks without a ctkEnabled of their own.

    With tracking on for the VM but off for a disk, that disk silently has no changeId, and every
    pass would copy it in full.
    """
    return tuple(disk for disk in vm.disks if not disk.tracking_enabled)


def is_tracked(vm: Vm, disk: Disk) -> bool:
    """Whether VM and disk both have tracking on."""
    return vm.tracking_enabled and bool(disk.tracking_enabled)


async def enable_tracking(
    vcenter: VCenter, clock: Clock, moref: str, timeout_seconds: float
) -> bool:
    """Turn CBT on for the VM and each of its disks; True if anything was off.

    Waits for other tasks of the VM. Raises CbtUnsupported, naming what is in the way, also when
    vCenter accepted the change but a disk still has it off; VCenterBusy and VCenterTimeout.
    """
    deadline = Deadline(clock, timeout_seconds)
    backoff = Backoff(clock, deadline)
    while True:
        vm = await vcenter.get_vm(moref)
        check_supported(vm)
        disks = untracked_disks(vm)
        if vm.tracking_enabled and not disks:
            return False
        try:
            await vcenter.set_tracking(
                moref, [disk.address for disk in disks], deadline.remaining_seconds
            )
        except VCenterBusy:
            if not await backoff.pause():
                raise
            continue
        _check_enabled(await vcenter.get_vm(moref))
        return True


def check_supported(vm: Vm) -> None:
    """Raise CbtUnsupported if the VM cannot be tracked as a whole."""
    if vm.hardware_version < OLDEST_HARDWARE_VERSION:
        raise CbtUnsupported(
            message=f"VM {vm.name!r} has virtual hardware version {vm.hardware_version}; changed "
            f"block tracking needs {OLDEST_HARDWARE_VERSION} or later",
            hint="upgrade the VM's compatibility in vCenter while it is off",
        )
    if not vm.tracking_supported:
        raise CbtUnsupported(
            message=f"vCenter does not support changed block tracking for VM {vm.name!r}",
            hint="check the ESXi host's version and license, and whether fault tolerance is on",
        )
    disks = untrackable_disks(vm)
    if disks:
        raise CbtUnsupported.for_disks(vm.name, disks)


def _check_enabled(vm: Vm) -> None:
    disks = untracked_disks(vm)
    if vm.tracking_enabled and not disks:
        return
    what = _names(disks) if disks else "the VM itself"
    raise CbtUnsupported(
        message=f"vCenter accepted changed block tracking for VM {vm.name!r} but it is still off "
        f"for {what}",
        metadata={"disks": ",".join(str(disk.key) for disk in disks)},
        hint="look for ctkEnabled in the VM's advanced configuration, and who resets it",
    )


def _names(disks: Sequence[Disk]) -> str:
    return ", ".join(f"{disk.label} ({disk.address})" for disk in disks)
