"""Starts a simulated vCenter: a new one from its scenario, an existing one from its files."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

from lab import scenario as scenarios
from lab.esxi.client import EsxiClient
from lab.scenario import Scenario
from lab.vcenter.methods import power, snapshots
from lab.vcenter.world.disk_routing import RoutedDisks
from lab.vcenter.world.disk_seed import add_disks
from lab.vcenter.world.guests import NoGuests, WriterGuests
from lab.vcenter.world.inventory import Inventory
from lab.vcenter.world.memory_disks import MemoryDisks
from lab.vcenter.world.ports import DiskStore, Guests
from lab.vcenter.world.settings import Settings
from lab.vcenter.world.vm_state import SnapshotDiskRecord, VmRecord, VmStore
from lab.vcenter.world.world import POWERED_ON, World, initial_records

_log = logging.getLogger(__name__)

GuestsFactory = Callable[[Path, dict[str, VmRecord]], Guests]


def open_world(directory: Path, real_disks: DiskStore, guests_of: GuestsFactory) -> World:
    """The world of the lab in ``directory``, whose ``scenario.json`` must exist.

    New VMs get their disks and, if the scenario has them running, are powered on. Known VMs keep
    their state; if the guest of a powered-on VM does not run, it is started.
    """
    scenario = scenarios.load((directory / "scenario.json").read_bytes())
    inventory = Inventory(scenario)
    state = directory / "vcenter"
    store = VmStore(state / "vms")
    vms: dict[str, VmRecord] = {}
    memory = MemoryDisks()

    def has_content(vm: str) -> bool:
        return vm in vms and vms[vm].spec.has_content

    world = World(
        inventory=inventory,
        vms=vms,
        store=store,
        disks=RoutedDisks(real_disks, memory, has_content),
        guests=guests_of(directory, vms),
        settings=Settings(),
    )
    with tempfile.TemporaryDirectory(dir=state, prefix="seed-") as scratch:
        for initial in initial_records(scenario, inventory):
            _open_vm(world, initial, Path(scratch))
    return world


def _open_vm(world: World, initial: VmRecord, scratch: Path) -> None:
    entity = world.inventory[initial.moref]
    if world.store.is_deleted(initial.moref):
        world.inventory.remove(entity)
        return
    stored = world.store.load(initial.moref)
    record = stored or initial
    world.vms[record.moref] = record
    entity.name = record.name
    if stored is None:
        _create(world, record, scratch)
    elif record.spec.has_content:
        _resume(world, record)
    else:
        _replay(world, record)


def _create(world: World, record: VmRecord, scratch: Path) -> None:
    add_disks(record, world.disks, scratch)
    if record.spec.powered_on and not record.spec.template:
        if record.spec.has_content:
            power.start(world, record)
        else:
            record.power = POWERED_ON
    elif record.spec.has_content:
        world.disks.set_power(record.moref, False)
    if record.spec.has_content:
        # Saved here, so that a restart does not create the content again.
        world.store.save(record)


def _resume(world: World, record: VmRecord) -> None:
    """Continue with a known VM: start its guest if it is powered on.

    Files of an unknown snapshot, which exist if the simulator was killed before it recorded what
    the host had done, are noted as files to consolidate."""
    known = {snapshot.moref for snapshot in record.snapshots} | set(record.unconsolidated)
    found = [m for d in world.disks.disks() if d.vm == record.moref for m in d.snapshots]
    for moref in dict.fromkeys(found):
        if moref not in known:
            _log.warning("%s has files of an unknown snapshot %s", record.name, moref)
            with world.change(record):
                record.unconsolidated.append(moref)
    snapshots.refresh_paths(world, record)
    if record.power == POWERED_ON:
        world.guests.start(record.moref)


def _replay(world: World, record: VmRecord) -> None:
    """Create the VM's snapshots again on disks without content, which do not survive a restart.
    The new changeIds differ, which callers see as a reset of tracking."""
    for disk in record.disks:
        base = (
            disk.path
            if not record.snapshots
            else min(
                (s.disks[disk.key].path for s in record.snapshots if disk.key in s.disks),
                key=len,
                default=disk.path,
            )
        )
        world.disks.add_disk(record.moref, disk.key, base, disk.capacity_bytes)
        if disk.tracked:
            world.disks.set_tracking(record.moref, disk.key, True)
    for snapshot in record.snapshots:
        frozen = world.disks.create_snapshot(record.moref, snapshot.moref, list(snapshot.disks))
        snapshot.disks = {
            key: SnapshotDiskRecord(disk.path, disk.change_id, disk.capacity_bytes)
            for key, disk in frozen.items()
        }
    record.unconsolidated.clear()
    with world.change(record):
        for disk in record.disks:
            disk.path = world.disks.current_path(record.moref, disk.key)


def writer_guests(directory: Path, vms: dict[str, VmRecord]) -> Guests:
    """Guests that write to disks with content."""
    return WriterGuests(directory / "guests", directory / "esxi" / "nbd.sock", vms.get)


def no_guests(_directory: Path, _vms: dict[str, VmRecord]) -> Guests:
    """Guests that do nothing."""
    return NoGuests()


def esxi_client(directory: Path) -> EsxiClient:
    """The client of the lab's ESXi side."""
    return EsxiClient(directory / "esxi" / "control.sock")


def write_scenario(directory: Path, scenario: Scenario) -> None:
    """Create a lab of this scenario in ``directory``."""
    (directory / "vcenter").mkdir(parents=True, exist_ok=True)
    (directory / "scenario.json").write_bytes(scenarios.dump(scenario))
