"""Power operations, and the guest's reaction to them."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pyVmomi import vim

from lab.scenario import Tools
from lab.vcenter.methods.calls import Call, Methods
from lab.vcenter.methods.tracking import apply_tracking
from lab.vcenter.properties.vms import tools_running
from lab.vcenter.world.settings import SLOW_SHUTDOWN_SECONDS
from lab.vcenter.world.vm_state import VmRecord, now
from lab.vcenter.world.world import POWERED_OFF, POWERED_ON, SUSPENDED, World

METHODS = Methods()


@METHODS.handle("PowerOnVM_Task")
def _power_on(call: Call) -> vim.Task:
    return _task(call, lambda world, record: power_on(world, record))


@METHODS.handle("PowerOffVM_Task")
def _power_off(call: Call) -> vim.Task:
    return _task(call, lambda world, record: power_off(world, record))


@METHODS.handle("SuspendVM_Task")
def _suspend(call: Call) -> vim.Task:
    return _task(call, _suspend_now)


@METHODS.handle("ResetVM_Task")
def _reset(call: Call) -> vim.Task:
    return _task(call, _reset_now)


@METHODS.handle("ShutdownGuest")
def _shutdown_guest(call: Call) -> None:
    record = call.vm
    _needs_tools(record)
    _in_background(call, shut_down)


@METHODS.handle("RebootGuest")
def _reboot_guest(call: Call) -> None:
    record = call.vm
    _needs_tools(record)
    _in_background(call, _reboot)


def _task(call: Call, operation: Callable[[World, VmRecord], None]) -> vim.Task:
    record, world = call.vm, call.world
    return call.tasks.run(
        call.method,
        record,
        call.user,
        lambda: operation(world, record),
    )


def power_on(world: World, record: VmRecord) -> None:
    """Start the VM. Raises InvalidPowerState."""
    _expect(record, POWERED_ON, POWERED_OFF, SUSPENDED)
    start(world, record)


def start(world: World, record: VmRecord) -> None:
    """Power on without checking the present state."""
    world.disks.set_power(record.moref, True)
    apply_tracking(world, record)
    with world.change(record):
        record.power = POWERED_ON
        record.boot_time = now()
    world.guests.start(record.moref)


def power_off(world: World, record: VmRecord) -> None:
    """Cut the power. Raises InvalidPowerState."""
    _expect(record, POWERED_OFF, POWERED_ON, SUSPENDED)
    _stop(world, record, POWERED_OFF)


def shut_down(world: World, record: VmRecord) -> None:
    """Shut the guest down: its last writes are on the disks before the power is off."""
    behaviour = record.settings.get("shutdown", "normal")
    if behaviour == "ignore":
        return
    if behaviour == "slow":
        world.sleep(SLOW_SHUTDOWN_SECONDS)
    world.sleep(world.settings.task_seconds)
    if record.power == POWERED_ON:
        _stop(world, record, POWERED_OFF)


def lose_power(world: World, record: VmRecord) -> None:
    """The host fails: nothing is flushed, and tracking of all disks is reset, because a host
    saves the bitmap that it keeps in memory only when a VM stops normally."""
    world.guests.kill(record.moref)
    world.disks.set_power(record.moref, False)
    for disk in record.disks:
        if disk.tracked:
            world.disks.reset_tracking(record.moref, disk.key)
    with world.change(record):
        record.power = POWERED_OFF
        record.boot_time = None


def _suspend_now(world: World, record: VmRecord) -> None:
    _expect(record, SUSPENDED, POWERED_ON)
    _stop(world, record, SUSPENDED)


def _reset_now(world: World, record: VmRecord) -> None:
    _expect(record, POWERED_ON, POWERED_ON)
    world.guests.kill(record.moref)
    world.guests.start(record.moref)
    with world.change(record):
        record.boot_time = now()


def _reboot(world: World, record: VmRecord) -> None:
    world.guests.stop(record.moref, world.settings.guest_stop_seconds)
    world.guests.start(record.moref)
    with world.change(record):
        record.boot_time = now()


def _stop(world: World, record: VmRecord, state: str) -> None:
    if not world.guests.stop(record.moref, world.settings.guest_stop_seconds):
        world.guests.kill(record.moref)
    world.disks.set_power(record.moref, False)
    with world.change(record):
        record.power = state
        record.boot_time = None


def _expect(record: VmRecord, requested: str, *allowed: str) -> None:
    if record.power not in allowed:
        raise invalid_power_state(record, requested)


def invalid_power_state(record: VmRecord, requested: str) -> vim.fault.InvalidPowerState:
    """The fault for an operation that the VM's power state forbids."""
    return vim.fault.InvalidPowerState(
        requestedState=requested,
        existingState=record.power,
        msg=f"The attempted operation cannot be performed in the current state ({record.power}).",
    )


def _needs_tools(record: VmRecord) -> None:
    if record.power != POWERED_ON:
        raise invalid_power_state(record, POWERED_ON)
    if not tools_running(record):
        installed = record.spec.tools is not Tools.NOT_INSTALLED
        raise vim.fault.ToolsUnavailable(
            msg="Cannot complete operation because VMware Tools is not running in this virtual "
            + ("machine." if installed else "machine (it is not installed).")
        )


def _in_background(call: Call, operation: Callable[[World, VmRecord], None]) -> None:
    thread = threading.Thread(
        target=operation, args=(call.world, call.vm), name=f"guest {call.vm.moref}", daemon=True
    )
    thread.start()
