"""Idempotent power operations: a VM that is already in the wanted state is left as it is."""

from services.vmware_agent.errors import ToolsNotRunning, VCenterBusy, WrongPowerState
from services.vmware_agent.ports import Clock, VCenter
from services.vmware_agent.vm import PowerState
from services.vmware_agent.waiting import Backoff, Deadline


async def shutdown_guest(vcenter: VCenter, moref: str) -> None:
    """Ask the guest to shut down, unless the VM is off; does not wait for the shutdown.

    Raises ToolsNotRunning, and WrongPowerState for a suspended VM.
    """
    vm = await vcenter.get_vm(moref)
    if vm.power is PowerState.OFF:
        return
    if vm.power is PowerState.SUSPENDED:
        raise WrongPowerState(
            message=f"VM {vm.name!r} is suspended: its guest cannot shut down",
            hint="resume the VM, or power it off, which loses the contents of its memory",
        )
    if not vm.tools_running:
        raise ToolsNotRunning(
            message=f"VMware Tools do not run in VM {vm.name!r}: its guest cannot be asked to "
            "shut down"
        )
    try:
        await vcenter.shutdown_guest(moref)
    except WrongPowerState:
        # After it was read above, the VM went off or began to shut down.
        if (await vcenter.get_vm(moref)).power is not PowerState.OFF:
            raise


async def power_off(vcenter: VCenter, clock: Clock, moref: str, timeout_seconds: float) -> None:
    """Power off without asking the guest; returns when the VM is off."""
    await _switch(vcenter, clock, moref, PowerState.OFF, timeout_seconds)


async def power_on(vcenter: VCenter, clock: Clock, moref: str, timeout_seconds: float) -> None:
    """Power on; returns when the VM is on."""
    await _switch(vcenter, clock, moref, PowerState.ON, timeout_seconds)


async def _switch(
    vcenter: VCenter, clock: Clock, moref: str, wanted: PowerState, timeout_seconds: float
) -> None:
    """Repeat the operation until the VM has the wanted state.

    Raises VCenterBusy, VCenterTimeout, WrongPowerState.
    """
    deadline = Deadline(clock, timeout_seconds)
    backoff = Backoff(clock, deadline)
    switch = vcenter.power_on if wanted is PowerState.ON else vcenter.power_off
    while (await vcenter.get_vm(moref)).power is not wanted:
        try:
            await switch(moref, deadline.remaining_seconds)
        except (VCenterBusy, WrongPowerState):
            # WrongPowerState: the state changed since it was read. It is read again.
            if not await backoff.pause():
                raise
