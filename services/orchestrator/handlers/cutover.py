"""The cutover: shutdown, final sync, verification, conversion. From here on every second counts."""

from services.kit.errors import ServiceError, StatusCode
from services.orchestrator.debts import pay_snapshots
from services.orchestrator.errors import SourceCameBack
from services.orchestrator.passes import copy_pass, open_pass, take_snapshot, verify_orders
from services.orchestrator.ports import ConversionSnapshot
from services.orchestrator.stages import Stage
from services.orchestrator.store import add_event
from services.orchestrator.tick import Advance, Outcome, Tick, Wait
from services.orchestrator.transfers import run_transfers

__all__ = ["await_shutdown", "convert", "final_sync", "verify"]

# A guest that has not shut down by then has a program that hangs, or asks a question.
_SHUTDOWN_SECONDS = 300.0
_POWER_POLL_SECONDS = 0.5
_MANUAL_POLL_SECONDS = 2.0
_CONVERSION_POLL_SECONDS = 0.5


def await_shutdown(tick: Tick) -> Outcome:
    """Wait until the machine is off, or an operator says to power it off."""
    power, _ = tick.agents.vmware.power(tick.migration.vm_moref)
    if power == "off":
        _mark_shutdown(tick)
        return Advance(Stage.FINAL_SYNC)
    action = tick.migration.shutdown_action
    if action == "force":
        _mark_shutdown(tick)
        tick.agents.vmware.power_off(tick.migration.vm_moref)
        return Advance(Stage.FINAL_SYNC)
    if action == "manual":
        return Wait(_MANUAL_POLL_SECONDS, "waits until somebody has shut the machine down")
    return Wait(
        _MANUAL_POLL_SECONDS,
        "shut the machine down, or decide with `v2c shutdown --action force`",
    )


def final_sync(tick: Tick) -> Outcome:
    """Shut the machine down and copy what changed since the last pass."""
    done = tick.migration.passes and tick.migration.passes[-1].kind == "final"
    if not done or open_pass(tick.migration) is not None:
        if open_pass(tick.migration) is None:
            pay_snapshots(tick)
            if not _shut_down(tick):
                return Advance(Stage.AWAITING_SHUTDOWN_ACTION)
        _require_off(tick)
        copy_pass(tick, take_snapshot(tick, "final"))
    pay_snapshots(tick)
    _require_off(tick)
    if tick.config.disk.verify_target:
        return Advance(Stage.VERIFYING)
    return Advance(_after_verification(tick))


def verify(tick: Tick) -> Outcome:
    """Read every image back and compare it with what was read from the source."""
    run_transfers(tick, verify_orders(tick))
    tick.event("images.verified", f"{len(tick.migration.disks)} image(s) hold what was read")
    return Advance(_after_verification(tick))


def convert(tick: Tick) -> Outcome:
    """Convert the guest on an overlay; the images stay as they are unless that succeeds."""
    images = [d.image_path for d in sorted(tick.migration.disks, key=lambda d: not d.is_root)]
    conversion_id = f"v2c-{tick.id[:12]}-convert"
    disk = tick.agents.disk
    disk.start_conversion(conversion_id, images, str(tick.spec.virtio_iso), tick.migration.epoch)
    while (now := disk.get_conversion(conversion_id)).state in {"queued", "running"}:
        tick.say(f"virt-v2v: {now.step or now.state}")
        tick.pause(_CONVERSION_POLL_SECONDS, heed_pause=False)
    if now.state != "succeeded":
        raise _conversion_error(now)
    for warning in now.warnings:
        tick.event("conversion.warning", warning)
    with tick.change() as (session, migration):
        migration.requires_uefi = now.requires_uefi
        add_event(
            session,
            tick.store.clock,
            migration,
            "conversion.done",
            f"{now.guest_os or 'the guest'} was converted",
            log=now.log_path,
        )
    return Advance(Stage.IMPORT_ROOT_DISK)


def _after_verification(tick: Tick) -> Stage:
    return Stage.CONVERTING if tick.spec.run_virt_v2v else Stage.IMPORT_ROOT_DISK


def _shut_down(tick: Tick) -> bool:
    """True once the machine is off and has settled; False when an operator has to decide."""
    vmware, moref = tick.agents.vmware, tick.migration.vm_moref
    power, _ = vmware.power(moref)
    _mark_shutdown(tick)
    if power != "off":
        if tick.spec.shutdown_mode == "force" or tick.migration.shutdown_action == "force":
            tick.say("powering the machine off")
            vmware.power_off(moref)
        elif not _ask_guest(tick):
            return False
    _mark_off(tick)
    windows = "windows" in str(tick.migration.source.get("guest", "")).lower()
    settle = tick.spec.settle_seconds(windows=windows)
    if power != "off" and settle:
        tick.say(f"settling for {settle} s after power-off")
        tick.pause(settle, heed_pause=False)
    return True


def _ask_guest(tick: Tick) -> bool:
    vmware, moref = tick.agents.vmware, tick.migration.vm_moref
    tick.say("asking the guest to shut down")
    try:
        vmware.shutdown_guest(moref)
    except ServiceError as exc:
        if exc.reason != "TOOLS_NOT_RUNNING":
            raise
        tick.event("shutdown.no_tools", "VMware Tools do not run: an operator has to decide")
        return False
    deadline = tick.store.clock().timestamp() + _SHUTDOWN_SECONDS
    while vmware.power(moref)[0] != "off":
        if tick.store.clock().timestamp() >= deadline:
            tick.event("shutdown.timeout", "the guest did not shut down: an operator has to decide")
            return False
        tick.pause(_POWER_POLL_SECONDS, heed_pause=False)
    return True


def _mark_shutdown(tick: Tick) -> None:
    """Start the downtime clock once."""
    with tick.change() as (_, migration):
        migration.shutdown_time = migration.shutdown_time or tick.store.clock()


def _mark_off(tick: Tick) -> None:
    with tick.change() as (_, migration):
        migration.off_time = migration.off_time or tick.store.clock()


def _require_off(tick: Tick) -> None:
    """The final sync holds only while nobody starts the source again."""
    power, _ = tick.agents.vmware.power(tick.migration.vm_moref)
    if power == "off":
        return
    with tick.change() as (_, migration):
        migration.off_time = None
    raise SourceCameBack(message=f"{tick.migration.vm_name} is {power} although it was shut down")


def _conversion_error(now: ConversionSnapshot) -> ServiceError:
    return ServiceError(
        code=StatusCode.ABORTED,
        reason=now.reason or "CONVERSION_CANCELLED",
        message=now.message or f"the conversion was {now.state}",
        hint=now.hint,
        retryable=now.retryable,
        metadata={"log_path": now.log_path},
    )
