"""Import into CloudStack: the machine from its root disk, then data disks, adapters, start."""

from functools import partial
from typing import Any

from services.orchestrator.database import tables
from services.orchestrator.database.tables import DebtKind
from services.orchestrator.ports.cloudstack import Job, VmImport
from services.orchestrator.ports.vmware import Firmware
from services.orchestrator.stages import Stage
from services.orchestrator.tick import Advance, Outcome, Tick
from services.orchestrator.work.debts import drop_debts
from services.orchestrator.work.jobs import run_job
from services.orchestrator.work.shutdown import require_off

__all__ = ["import_data", "import_root"]


def import_root(tick: Tick) -> Outcome:
    """Import the root disk as a new machine, or find the one that an earlier attempt imported."""
    require_off(tick)
    order = _vm_import(tick)
    tick.show("importing the root disk")
    vm_id = run_job(
        tick, "import_root", lambda job_id: tick.agents.cloudstack.import_vm(job_id, order)
    )
    target = tick.agents.cloudstack.get_vm(vm_id)
    with tick.change() as (_, migration):
        migration.target_vm_id = vm_id
        for disk in migration.disks:
            if disk.is_root:
                disk.volume_id = target.volumes.get(disk.image_name, "")
    tick.event("vm.imported", f"CloudStack has {target.name}", vm_id=vm_id)
    return Advance(Stage.IMPORT_DATA_DISK)


def import_data(tick: Tick) -> Outcome:
    """Add data disks, adapters and settings, then start the machine if the spec asks for it."""
    vm_id = tick.loaded.target_vm_id
    for disk in tick.loaded.disks:
        if not disk.is_root:
            _import_disk(tick, disk, vm_id)
    _add_nics(tick, vm_id)
    tick.show("applying settings")
    tick.agents.cloudstack.update_vm(vm_id, tick.spec.ostypeid or "")
    if tick.spec.start_vm_after_import:
        # If source and target both run, they corrupt the systems they share.
        require_off(tick)
        tick.show("starting the machine")
        run_job(tick, "start", lambda job_id: tick.agents.cloudstack.start_vm(job_id, vm_id))
    with tick.change() as (_, migration):
        migration.up_time = tick.store.clock()
        # The images are CloudStack's volumes now.
        drop_debts(migration, DebtKind.IMAGE)
    return Advance(Stage.DONE)


def _import_disk(tick: Tick, disk: tables.Disk, vm_id: str) -> None:
    cloudstack = tick.agents.cloudstack
    tick.show(f"importing {disk.label}")
    name = f"{tick.loaded.vm_name} {disk.label}"
    offering_id = tick.spec.placement(disk.unit).diskofferingid or ""
    volume_id = run_job(
        tick,
        f"import:{disk.key}",
        lambda job_id: cloudstack.import_volume(
            job_id, disk.storage_id, disk.image_name, name, offering_id
        ),
    )
    with tick.change() as (session, _):
        session.get_one(tables.Disk, (tick.id, disk.key)).volume_id = volume_id
    run_job(
        tick,
        f"attach:{disk.key}",
        lambda job_id: cloudstack.attach_volume(job_id, volume_id, vm_id),
    )


def _add_nics(tick: Tick, vm_id: str) -> None:
    """Add all mapped adapters but the first, which the import created, with their MAC addresses."""
    for nic, network in _mapped_nics(tick)[1:]:
        tick.show(f"adding {nic['label']}")
        add = partial(_add_nic, tick, vm_id, network, str(nic["mac"]))
        run_job(tick, f"nic:{nic['key']}", add)


def _add_nic(tick: Tick, vm_id: str, network_id: str, mac: str, job_id: str) -> Job:
    return tick.agents.cloudstack.add_nic(job_id, vm_id, network_id, mac)


def _mapped_nics(tick: Tick) -> list[tuple[dict[str, Any], str]]:
    nics: list[dict[str, Any]] = tick.loaded.source.get("nics", [])
    mapped = [(nic, tick.spec.network(nic["key"], nic["index"])) for nic in nics]
    return [(nic, network) for nic, network in mapped if network]


def _vm_import(tick: Tick) -> VmImport:
    spec, source = tick.spec, tick.loaded.source
    root = next(d for d in tick.loaded.disks if d.is_root)
    mapped = _mapped_nics(tick)
    boot_type = spec.boottype or _boot_type(tick)
    secure = spec.bootmode or ("SECURE" if source.get("secure_boot") else "LEGACY")
    return VmImport(
        display_name=tick.loaded.vm_name,
        name_suffix=tick.loaded.vm_moref,
        zone_id=spec.zoneid,
        cluster_id=spec.clusterid,
        storage_id=root.storage_id,
        disk_path=root.image_name,
        # CloudStack gives every imported machine an adapter, even if the source had none.
        network_id=mapped[0][1] if mapped else spec.networkid or "",
        service_offering_id=spec.serviceofferingid,
        cpu_count=int(source.get("cpu_count", 0)),
        memory_bytes=int(source.get("memory_bytes", 0)),
        boot_type=boot_type,
        boot_mode=secure if boot_type == "UEFI" else "LEGACY",
        root_disk_controller=spec.rootdiskcontroller or "virtio",
        nic_adapter=spec.nicadapter or "virtio",
    )


def _boot_type(tick: Tick) -> str:
    uefi = tick.loaded.source.get("firmware") == Firmware.UEFI or tick.loaded.requires_uefi
    return "UEFI" if uefi else "BIOS"
