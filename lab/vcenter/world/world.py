"""Everything one simulated vCenter knows, behind one lock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import ManagedObject

from lab.scenario import Scenario, VmSpec
from lab.vcenter.world.inventory import Entity, Inventory, stable_uuid
from lab.vcenter.world.ports import DiskStore, Guests
from lab.vcenter.world.settings import Settings
from lab.vcenter.world.vm_state import (
    DiskRecord,
    SnapshotRecord,
    VmRecord,
    VmStore,
    now,
    place_disks,
)

POWERED_ON = "poweredOn"
POWERED_OFF = "poweredOff"
SUSPENDED = "suspended"


@dataclass
class World:
    """State of the simulator.

    ``changed`` is notified after each change of anything a property shows; hold it (it is also
    the lock of all state) while reading or changing records. Disks and guests are called without
    it, because those calls take time.
    """

    inventory: Inventory
    vms: dict[str, VmRecord]
    store: VmStore
    disks: DiskStore
    guests: Guests
    settings: Settings
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    changed: threading.Condition = field(
        default_factory=lambda: threading.Condition(threading.RLock())
    )
    revision: int = 0
    """Goes up with each change of the inventory itself or of any VM."""

    @contextmanager
    def change(self, record: VmRecord) -> Iterator[None]:
        """Change a VM: lock, then persist, bump its revision and wake those who wait."""
        with self.changed:
            yield
            record.revision += 1
            self.revision += 1
            if record.moref in self.vms:
                self.store.save(record)
            self.changed.notify_all()

    def notify(self) -> None:
        """Wake those who wait for updates after a change that is not a VM's."""
        with self.changed:
            self.revision += 1
            self.changed.notify_all()

    def vm(self, reference: vim.VirtualMachine) -> VmRecord:
        """The record behind a reference. Raises vmodl.fault.ManagedObjectNotFound."""
        record = self.vms.get(reference._moId)
        if record is None:
            raise not_found(reference)
        return record

    def entity(self, reference: ManagedObject) -> Entity:
        """The entity behind a reference. Raises vmodl.fault.ManagedObjectNotFound."""
        entity = self.inventory.get(reference._moId)
        if entity is None or not issubclass(entity.kind, type(reference)):
            raise not_found(reference)
        return entity

    def place(self, record: VmRecord) -> Entity:
        """The VM's node in the inventory. Raises KeyError if it has left it."""
        return self.inventory[record.moref]

    def snapshot(self, reference: ManagedObject) -> tuple[VmRecord, SnapshotRecord]:
        """The snapshot behind a reference. Raises vmodl.fault.ManagedObjectNotFound."""
        for record in self.vms.values():
            snapshot = record.snapshot(reference._moId)
            if snapshot is not None:
                return record, snapshot
        raise not_found(reference)

    def delete_vm(self, record: VmRecord) -> None:
        """Take the VM out of the inventory."""
        with self.changed:
            self.inventory.remove(self.place(record))
            del self.vms[record.moref]
            self.store.delete(record.moref)
            self.notify()


def not_found(reference: ManagedObject) -> vmodl.fault.ManagedObjectNotFound:
    """The fault for a reference that means nothing (any more)."""
    return vmodl.fault.ManagedObjectNotFound(
        obj=reference,
        msg=f"The object '{type(reference).__name__}:{reference._moId}' has already been deleted "
        "or has not been completely created",
    )


def reference(entity: Entity) -> Any:
    """A pyVmomi reference to the entity, of the entity's class."""
    return entity.kind(entity.moref)


def initial_records(scenario: Scenario, inventory: Inventory) -> Iterator[VmRecord]:
    """Each VM as the scenario describes it."""
    for number, entity in enumerate(inventory.of_kind(vim.VirtualMachine)):
        yield _initial_record(scenario, entity, number)


def _initial_record(scenario: Scenario, entity: Entity, number: int) -> VmRecord:
    spec, store = entity.spec_as(VmSpec), entity.link("datastore")
    # Two VMs of one name on one datastore get different directories, as vSphere does it.
    same = [v for v in store.links["vm"] if v.name == spec.name]
    suffix = f"_{same.index(entity)}" if same.index(entity) else ""
    directory = f"[{store.name}] {spec.name}{suffix}"
    disks = [
        DiskRecord(
            spec=disk,
            key=key,
            unit=unit,
            path=f"{directory}/{spec.name}{f'_{index}' if index else ''}.vmdk",
            capacity_bytes=disk.capacity_bytes,
            uuid=_vmdk_uuid(stable_uuid(scenario.name, entity.moref, str(key))),
        )
        for index, (disk, unit, key) in enumerate(place_disks(spec.disks))
    ]
    record = VmRecord(
        moref=entity.moref,
        spec=replace(spec, datastore=store.name),
        name=spec.name,
        uuid=spec.uuid or stable_uuid(scenario.name, entity.moref, "bios"),
        instance_uuid=stable_uuid(scenario.name, entity.moref, "instance"),
        power=POWERED_OFF,
        change_tracking=spec.change_tracking,
        extra_config={},
        disks=disks,
        macs=[nic.mac or _mac(number, index) for index, nic in enumerate(spec.nics)],
        cpus=spec.cpus,
        memory_mib=spec.memory_mib,
        annotation=spec.annotation,
        created=now(),
    )
    for disk in disks:
        if disk.spec.ctk_enabled is not None:
            record.extra_config[f"{disk.slot}.ctkEnabled"] = str(disk.spec.ctk_enabled).upper()
    if spec.change_tracking:
        record.extra_config["ctkEnabled"] = "TRUE"
    return record


def _vmdk_uuid(text: str) -> str:
    """VMDK uuids are written 6000C29a-xxxx-…"""
    return "6000C29" + text[7:]


def _mac(vm: int, nic: int) -> str:
    """00:50:56:80:00:00 to :bf:ff:ff is what vCenter gives out."""
    number = vm * 10 + nic
    return f"00:50:56:{0x80 + (number >> 16):02x}:{number >> 8 & 0xFF:02x}:{number & 0xFF:02x}"
