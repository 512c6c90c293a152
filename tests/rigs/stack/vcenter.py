"""What somebody else does in vCenter while a migration runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pyVmomi import vim

from lab.stack import Lab
from lab.vcenter_login import vcenter_login


def power_off(lab: Lab, vm: str) -> None:
    """Power a machine off."""
    with _machine(lab, vm) as machine:
        _finish(machine.PowerOffVM_Task())


def remove_snapshots(lab: Lab, vm: str) -> None:
    """Remove all snapshots of a machine."""
    with _machine(lab, vm) as machine:
        _finish(machine.RemoveAllSnapshots_Task())


def grow_disk(lab: Lab, vm: str, label: str, more_mib: int) -> None:
    """Make a disk of a machine larger, as the client's \"Edit settings\" does."""
    with _machine(lab, vm) as machine:
        (disk,) = [
            device
            for device in (machine.config or vim.vm.ConfigInfo()).hardware.device
            if isinstance(device, vim.vm.device.VirtualDisk)
            and device.deviceInfo is not None
            and device.deviceInfo.label == label
        ]
        disk.capacityInKB += more_mib << 10
        disk.capacityInBytes = None
        change = vim.vm.device.VirtualDeviceSpec(operation="edit", device=disk)
        _finish(machine.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change])))


@contextmanager
def _machine(lab: Lab, vm: str) -> Iterator[vim.VirtualMachine]:
    with vcenter_login(lab) as service:
        yield vim.VirtualMachine(lab.vm(vm)["moref"], service._stub)


def _finish(task: vim.Task) -> None:
    while task.info.state in (vim.TaskInfo.State.queued, vim.TaskInfo.State.running):
        time.sleep(0.02)
    assert task.info.state == vim.TaskInfo.State.success, task.info.error
