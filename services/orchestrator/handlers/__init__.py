"""The stages' handlers: one function per stage, collected in `HANDLERS`."""

from collections.abc import Mapping

from services.orchestrator.handlers import copying, cutover, discovery, importing, preparation
from services.orchestrator.stages import Stage
from services.orchestrator.tick import Handler

__all__ = ["HANDLERS"]

HANDLERS: Mapping[Stage, Handler] = {
    Stage.INIT: discovery.admit,
    Stage.CONNECTING_VCENTER: discovery.connect,
    Stage.FINDING_VM: discovery.find_vm,
    Stage.DISCOVERING_VMWARE_DISKS: discovery.discover_disks,
    Stage.PREPARING_TARGET_STORAGE: preparation.prepare_storage,
    Stage.ENABLING_CBT: preparation.enable_cbt,
    Stage.CREATING_BASE_SNAPSHOT: copying.base_snapshot,
    Stage.BASE_COPY: copying.base_copy,
    Stage.DELTA: copying.delta,
    Stage.AWAITING_SHUTDOWN_ACTION: cutover.await_shutdown,
    Stage.FINAL_SYNC: cutover.final_sync,
    Stage.VERIFYING: cutover.verify,
    Stage.CONVERTING: cutover.convert,
    Stage.IMPORT_ROOT_DISK: importing.import_root,
    Stage.IMPORT_DATA_DISK: importing.import_data,
}
