"""Changed block tracking (CBT): whether a VM supports it, whether it is on, and turning it on.

VMware's "Virtual Disk API Programming Guide" and KB 1020128 require hardware version 7 or later,
`capability.changeTrackingSupported`, and no disk that snapshots do not cover. A change of the
setting takes effect when the VM is next stunned: at power-on, resume, or a snapshot.
"""

from collections.abc import Sequence

from services.vmware_agent.errors import CbtUnsupported, VCenterBusy
from services.vmware_agent.ports import Clock, VCenter
from services.vmware_agent.vm import Disk, Vm
from services.vmware_agent.waiting import Backoff, Deadline

OLDEST_HARDWARE_VERSION = 7


def untrackable_disks(vm: Vm) -> tuple[Disk, ...]:
    """The disks that cannot be tracked."""
    return tuple(disk for disk in vm.disks if disk.obstacles)


def untracked_disks(vm: Vm) -> tuple[Disk, ...]:
    """The disks whose own ctkEnabled key is not on.

    If tracking is on for the VM but off for a disk, vCenter reports no changeId for that disk and
    no error, and every pass would copy the disk in full.
    """
    return tuple(disk for disk in vm.disks if not disk.tracking_enabled)


def is_tracked(vm: Vm, disk: Disk) -> bool:
    """Whether tracking is on for both the VM and the disk."""
    return vm.tracking_enabled and bool(disk.tracking_enabled)


async def enable_tracking(
    vcenter: VCenter, clock: Clock, moref: str, timeout_seconds: float
) -> bool:
    """Turn CBT on for the VM and each of its disks; True if it was off for any of them.

    Waits for other tasks of the VM. Raises CbtUnsupported, which names the obstacle, also if
    vCenter accepted the change but CBT is still off for a disk; VCenterBusy; VCenterTimeout.
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
    """Raise CbtUnsupported if the VM or any of its disks cannot be tracked."""
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
        hint="look at ctkEnabled in the VM's advanced configuration, and find out what resets it",
    )


def _names(disks: Sequence[Disk]) -> str:
    return ", ".join(f"{disk.label} ({disk.address})" for disk in disks)
