"""The cutover: shutdown, final sync, verification, conversion. All of it is downtime."""

from dataclasses import replace

from services.kit.failure import ReportedError, ServiceError
from services.orchestrator.database import tables
from services.orchestrator.database.store import add_event
from services.orchestrator.database.tables import PassKind
from services.orchestrator.errors import ConversionCancelled
from services.orchestrator.ports.disk import ConversionSnapshot, WorkState
from services.orchestrator.ports.reasons import Reason
from services.orchestrator.ports.vmware import PowerState
from services.orchestrator.stages import Stage
from services.orchestrator.tick import Advance, Interrupted, Outcome, Tick, Wait
from services.orchestrator.work.debts import settle_snapshots
from services.orchestrator.work.passes import copy_pass, open_pass, take_snapshot
from services.orchestrator.work.shutdown import mark_shutdown, require_off, settle, shut_down
from services.orchestrator.work.transfers import run_transfers
from services.orchestrator.work.verification import expect_repair, verify_orders

__all__ = ["await_shutdown", "conversion_id", "convert", "final_sync", "verify"]

_MANUAL_POLL_SECONDS = 2.0
_CONVERSION_POLL_SECONDS = 0.5
_GIB = 1 << 30


def await_shutdown(tick: Tick) -> Outcome:
    """Wait until the machine is off, or an operator requests that it be powered off."""
    power, _ = tick.agents.vmware.power(tick.loaded.vm_moref)
    if power is PowerState.OFF or tick.loaded.shutdown_action == "force":
        mark_shutdown(tick)
        return Advance(Stage.FINAL_SYNC)
    if tick.loaded.shutdown_action == "manual":
        return Wait(_MANUAL_POLL_SECONDS, "waits until somebody has shut the machine down")
    return Wait(
        _MANUAL_POLL_SECONDS,
        "shut the machine down, or decide with `v2c shutdown --action force`",
    )


def final_sync(tick: Tick) -> Outcome:
    """Shut the machine down and copy what changed since the last pass."""
    current = open_pass(tick.loaded)
    settle_snapshots(tick, keep=current.snapshot_name if current else "")
    if tick.loaded.off_time is None and not shut_down(tick):
        return Advance(Stage.AWAITING_SHUTDOWN_ACTION)
    settle(tick)
    require_off(tick)
    if not _synced(tick.fresh()):
        copy_pass(tick, take_snapshot(tick, PassKind.FINAL))
        require_off(tick)
    if not _synced(tick.fresh()):
        # The pass began before the source was started again: another pass is needed.
        return Wait(0, "")
    settle_snapshots(tick)
    if tick.config.disk.verify_target:
        return Advance(Stage.VERIFYING)
    return Advance(_after_verification(tick))


def verify(tick: Tick) -> Outcome:
    """Read every image back and compare it with the source's digests, or with the source itself.

    A difference fails the migration: an operator has to know that the storage does not keep what is
    written to it. A retry then repairs the images.
    """
    if tick.loaded.off_time is None:
        # The source was started after the final sync: copy what it wrote before verifying.
        return Advance(Stage.FINAL_SYNC)
    require_off(tick)
    found = tick.agents.vmware.get_vm(moref=tick.loaded.vm_moref)
    paths = {disk.key: disk.path for disk in found.disks}
    try:
        results = run_transfers(tick, verify_orders(tick, paths))
    except ServiceError as exc:
        # The disks of a running machine cannot be opened: report that it runs instead of that
        # error.
        require_off(tick)
        if exc.reason == Reason.CONTENT_MISMATCH:
            expect_repair(tick)
        raise
    # The result is valid only if the source stayed off while its disks were read.
    require_off(tick)
    repaired = sum(result.repaired_bytes for result in results)
    if repaired:
        tick.event(
            "images.repaired",
            f"{repaired} bytes differed; they were written again from the source and read back",
            repaired_bytes=repaired,
        )
    with tick.change() as (_, migration):
        # A repair computes new digests from the source.
        for disk, result in zip(migration.disks, results, strict=True):
            disk.digest = result.digest or disk.digest
    verified = sum(result.verified_bytes for result in results)
    unverified = sum(result.unverified_bytes for result in results)
    tick.event(
        "images.verified",
        f"images compared with what was read: {len(results)}, {verified / _GIB:.2f} GiB verified, "
        f"{f'{unverified / _GIB:.2f} GiB' if unverified else '0'} unverified",
        verified_bytes=verified,
        unverified_bytes=unverified,
    )
    return Advance(_after_verification(tick))


def convert(tick: Tick) -> Outcome:
    """Convert the guest on an overlay; the images change only if the conversion succeeds."""
    images = [d.image_path for d in sorted(tick.loaded.disks, key=lambda d: not d.is_root)]
    id_ = conversion_id(tick)
    epoch = tick.loaded.epoch
    disk = tick.agents.disk
    disk.start_conversion(id_, images, str(tick.spec.virtio_iso), epoch)
    while not (now := disk.get_conversion(id_)).state.ended:
        tick.show(f"virt-v2v: {now.step or now.state}")
        try:
            tick.pause(_CONVERSION_POLL_SECONDS, heed_pause=False)
        except Interrupted:
            if not tick.signals.stopping:
                disk.cancel_conversion(id_, epoch)
            raise
    if now.state is not WorkState.SUCCEEDED:
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


def conversion_id(tick: Tick) -> str:
    """The id of the migration's conversion on the storage host."""
    return f"v2c-{tick.id[:12]}-convert"


def _synced(migration: tables.Migration) -> bool:
    """Whether a pass that began after the machine went off is durable."""
    off, passes = migration.off_time, migration.passes
    return any(
        off and p.end_time and p.kind == PassKind.FINAL and p.start_time >= off for p in passes
    )


def _after_verification(tick: Tick) -> Stage:
    return Stage.CONVERTING if tick.spec.run_virt_v2v else Stage.IMPORT_ROOT_DISK


def _conversion_error(now: ConversionSnapshot) -> ServiceError:
    known = {"log_path": now.log_path}
    if now.failure is None:
        return ConversionCancelled("the conversion was cancelled", metadata=known)
    return ReportedError(replace(now.failure, metadata={**now.failure.metadata, **known}))
