"""Power, idempotently: nothing is done when the VM is in the wanted state already."""

from services.vmware_agent.errors import ToolsNotRunning, VCenterBusy, WrongPowerState
from services.vmware_agent.ports import Clock, VCenter
from services.vmware_agent.vm import PowerState
from services.vmware_agent.waiting import Backoff, Deadline


async def shutdown_guest(vcenter: VCenter, moref: str) -> None:
    """Ask the guest to shut down and return at once; nothing to do when the VM is off.

    Raises ToolsNotRunning, and WrongPowerState for a suspended VM.
    """
    vm = await vcenter.get_vm(moref)
    if vm.power is PowerState.OFF:
        return
    if vm.power is PowerState.SUSPENDED:
        raise WrongPowerState(
            message=f"VM {vm.name!r} is suspended: its guest cannot shut down",
            hint="resume the VM, or power it off and lose what it had in memory",
        )
    if not vm.tools_running:
        raise ToolsNotRunning(
            message=f"VMware Tools do not run in VM {vm.name!r}: its guest cannot be asked to "
            "shut down"
        )
    try:
        await vcenter.shutdown_guest(moref)
    except WrongPowerState:
        # It went off, or is already shutting down, between the look and the call.
        if (await vcenter.get_vm(moref)).power is not PowerState.OFF:
            raise


async def power_off(vcenter: VCenter, clock: Clock, moref: str, timeout_seconds: float) -> None:
    """Switch off as if the cable were pulled; returns when it is off."""
    await _switch(vcenter, clock, moref, PowerState.OFF, timeout_seconds)


async def power_on(vcenter: VCenter, clock: Clock, moref: str, timeout_seconds: float) -> None:
    """Switch on; returns when it is on."""
    await _switch(vcenter, clock, moref, PowerState.ON, timeout_seconds)


async def _switch(
    vcenter: VCenter, clock: Clock, moref: str, wanted: PowerState, timeout_seconds: float
) -> None:
    """Switch until the VM is as wanted. Raises VCenterBusy, VCenterTimeout, WrongPowerState."""
    deadline = Deadline(clock, timeout_seconds)
    backoff = Backoff(clock, deadline)
    switch = vcenter.power_on if wanted is PowerState.ON else vcenter.power_off
    while (await vcenter.get_vm(moref)).power is not wanted:
        try:
            await switch(moref, deadline.remaining_seconds)
        except (VCenterBusy, WrongPowerState):
            # WrongPowerState: somebody else switches at the same moment; the next look decides.
            if not await backoff.pause():
                raise
