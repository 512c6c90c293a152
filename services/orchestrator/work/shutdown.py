"""Shuts the source down, and checks that it stays off."""

from datetime import timedelta

from services.kit.failure import ServiceError
from services.orchestrator.errors import SourcePoweredOn
from services.orchestrator.ports.reasons import Reason
from services.orchestrator.ports.vmware import PowerState
from services.orchestrator.tick import Tick

__all__ = ["mark_shutdown", "require_off", "settle", "shut_down"]

# In a guest that takes longer, some program hangs or waits for an answer.
_SHUTDOWN_SECONDS = 300.0
_POWER_POLL_SECONDS = 0.5


def shut_down(tick: Tick) -> bool:
    """Shut the machine down; True once it is off, False when an operator has to decide."""
    vmware, moref = tick.agents.vmware, tick.loaded.vm_moref
    power, _ = vmware.power(moref)
    found_off = power is PowerState.OFF and tick.loaded.shutdown_time is None
    mark_shutdown(tick)
    if power is not PowerState.OFF:
        if tick.spec.shutdown_mode == "force" or tick.loaded.shutdown_action == "force":
            tick.show("powering the machine off")
            vmware.power_off(moref)
        elif not _ask_guest(tick):
            return False
    with tick.change() as (_, migration):
        migration.off_time = migration.shutdown_time if found_off else tick.store.clock()
    return True


def settle(tick: Tick) -> None:
    """Wait after power-off until the storage has everything, unless the machine was off before."""
    now = tick.fresh()
    if now.off_time is None or now.off_time == now.shutdown_time:
        return
    windows = "windows" in str(now.source.get("guest", "")).lower()
    seconds = tick.spec.settle_seconds(windows=windows)
    end = now.off_time + timedelta(seconds=seconds)
    while (left := (end - tick.store.clock()).total_seconds()) > 0:
        tick.show(f"settling for {seconds} s after power-off")
        tick.pause(left, heed_pause=False)


def mark_shutdown(tick: Tick) -> None:
    """Record when the downtime began, if it is not recorded yet."""
    with tick.change() as (_, migration):
        migration.shutdown_time = migration.shutdown_time or tick.store.clock()


def require_off(tick: Tick) -> None:
    """Raise SourcePoweredOn unless the source is off.

    If the source was started after its shutdown, the target lacks what it wrote since: the final
    sync, which begins with another shutdown, has to be repeated.
    """
    power, _ = tick.agents.vmware.power(tick.loaded.vm_moref)
    # Without an off_time an earlier check found the source running, although it is off again now.
    if power is PowerState.OFF and tick.fresh().off_time is not None:
        return
    with tick.change() as (_, migration):
        migration.off_time = None
    state = "was started" if power is PowerState.OFF else f"is {power}"
    raise SourcePoweredOn(message=f"{tick.loaded.vm_name} {state} although it was shut down")


def _ask_guest(tick: Tick) -> bool:
    vmware, moref = tick.agents.vmware, tick.loaded.vm_moref
    tick.show("asking the guest to shut down")
    try:
        vmware.shutdown_guest(moref)
    except ServiceError as exc:
        if exc.reason != Reason.TOOLS_NOT_RUNNING:
            raise
        # The guest was not asked to shut down: the machine runs, the downtime has not begun.
        with tick.change() as (_, migration):
            migration.shutdown_time = None
        tick.event("shutdown.no_tools", "VMware Tools do not run: an operator has to decide")
        return False
    deadline = tick.store.clock().timestamp() + _SHUTDOWN_SECONDS
    while vmware.power(moref)[0] is not PowerState.OFF:
        if tick.store.clock().timestamp() >= deadline:
            tick.event("shutdown.timeout", "the guest did not shut down: an operator has to decide")
            return False
        tick.pause(_POWER_POLL_SECONDS, heed_pause=False)
    return True
