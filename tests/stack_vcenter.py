"""What somebody else does in vCenter while a migration runs."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim

from lab.stack import Lab


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
    vcenter = lab.info["vcenter"]
    context = ssl.create_default_context(cafile=vcenter["ca_file"])
    context.check_hostname = False
    service = SmartConnect(
        host=vcenter["host"],
        port=vcenter["port"],
        user=vcenter["user"],
        pwd=vcenter["password"],
        sslContext=context,
    )
    try:
        yield vim.VirtualMachine(lab.vm(vm)["moref"], service._stub)
    finally:
        Disconnect(service)


def _finish(task: vim.Task) -> None:
    while task.info.state in (vim.TaskInfo.State.queued, vim.TaskInfo.State.running):
        time.sleep(0.02)
    assert task.info.state == vim.TaskInfo.State.success, task.info.error
