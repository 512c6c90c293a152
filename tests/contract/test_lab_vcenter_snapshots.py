"""Snapshots and changed block tracking of the simulated vCenter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from lab.scenario import MIB, Backing, DiskSpec, Tools
from tests.rigs.lab.vcenter import (
    Simulator,
    disks,
    find,
    one_datacenter,
    running,
    until,
    vm,
    wait,
)

_DISK = DiskSpec(8 * MIB)


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    directory: Path = tmp_path_factory.mktemp("lab")
    scenario = one_datacenter(
        vm("plain"),
        vm("paged"),
        vm("reset"),
        vm("lost"),
        vm("late"),
        vm("deep"),
        vm("tree"),
        vm("slow"),
        vm("quiesce"),
        vm("stuck"),
        vm("no-tools", tools=Tools.NOT_RUNNING),
        vm("half", disks=(_DISK, _DISK)),
        vm("old", hardware_version="vmx-04"),
        vm(
            "special",
            disks=(
                _DISK,
                DiskSpec(8 * MIB, mode="independent_persistent"),
                DiskSpec(8 * MIB, backing=Backing.RDM_PHYSICAL),
            ),
        ),
        vm("node", shared_bus="physicalSharing"),
    )
    with running(directory, scenario) as simulator:
        yield simulator


@pytest.fixture
def instance(simulator: Simulator) -> Iterator[Any]:
    with simulator.client() as instance:
        yield instance


def track(machine: Any, **extra: str) -> None:
    options = [vim.option.OptionValue(key=k.replace("__", ":"), value=v) for k, v in extra.items()]
    spec = vim.vm.ConfigSpec(changeTrackingEnabled=True, extraConfig=options)
    wait(machine.ReconfigVM_Task(spec))


def snapshot(machine: Any, name: str = "s", quiesce: bool = False) -> Any:
    return wait(machine.CreateSnapshot_Task(name, "made by a test", False, quiesce))


def test_a_snapshot_after_enabling_cbt_has_change_ids(instance: Any) -> None:
    machine = find(instance, "plain")
    before = snapshot(machine, "untracked")
    assert disks(before)[0].backing.changeId is None
    wait(before.RemoveSnapshot_Task(removeChildren=False))
    track(machine)
    assert machine.config.changeTrackingEnabled
    first = snapshot(machine, "first")
    change_id = disks(first)[0].backing.changeId
    uuid, _, number = change_id.partition("/")
    assert len(bytes.fromhex(uuid.replace("-", " "))) == 16
    assert number.isdigit()
    second = snapshot(machine, "second")
    assert disks(second)[0].backing.changeId != change_id
    areas = machine.QueryChangedDiskAreas(second, 2000, 0, change_id)
    assert [(a.start, a.length) for a in areas.changedArea] == [(0, 65536)]
    assert (areas.startOffset, areas.length) == (0, 8 * MIB)
    wait(machine.RemoveAllSnapshots_Task())
    assert machine.snapshot is None


def test_the_live_disk_moves_and_the_snapshot_keeps_its_file(
    instance: Any,
) -> None:
    machine = find(instance, "tree")
    base = disks(machine)[0].backing.fileName
    first = snapshot(machine, "one")
    second = snapshot(machine, "two")
    live = disks(machine)[0].backing
    assert live.fileName != base
    assert live.parent.fileName == disks(second)[0].backing.fileName
    assert disks(first)[0].backing.fileName == base
    (root,) = machine.snapshot.rootSnapshotList
    assert (root.name, root.childSnapshotList[0].name) == ("one", "two")
    assert machine.snapshot.currentSnapshot == second
    wait(first.RemoveSnapshot_Task(removeChildren=False))
    assert [n.name for n in machine.snapshot.rootSnapshotList] == ["two"]
    wait(second.RemoveSnapshot_Task(removeChildren=False))
    assert disks(machine)[0].backing.fileName == base
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        print(first.config)


def test_remove_children_takes_the_branch(instance: Any) -> None:
    machine = find(instance, "tree")
    first, _second = snapshot(machine), snapshot(machine)
    wait(first.RemoveSnapshot_Task(removeChildren=True))
    assert machine.snapshot is None


def test_pages_of_changed_areas_can_be_small_and_empty(simulator: Simulator, instance: Any) -> None:
    machine = find(instance, "paged")
    track(machine)
    frozen = snapshot(machine)
    simulator.control.call("set", cbt_page_bytes=3 * MIB)
    try:
        pages, position = [], 0
        while position < 8 * MIB:
            page = machine.QueryChangedDiskAreas(frozen, 2000, position, "*")
            assert page.startOffset == position
            pages.append([(a.start, a.length) for a in page.changedArea])
            position += page.length
        assert pages == [[(0, 3 * MIB)], [(3 * MIB, MIB)], []]
    finally:
        simulator.control.call("set", cbt_page_bytes=0)


def test_reset_tracking_makes_old_ids_a_file_fault(simulator: Simulator, instance: Any) -> None:
    machine = find(instance, "reset")
    track(machine)
    old = snapshot(machine)
    change_id = disks(old)[0].backing.changeId
    assert simulator.control.call("reset_cbt", vm="reset", disk=2000) == {"disks": [2000]}
    new = snapshot(machine)
    with pytest.raises(vim.fault.FileFault) as refused:
        machine.QueryChangedDiskAreas(new, 2000, 0, change_id)
    assert refused.value.file.endswith(".vmdk")
    assert disks(new)[0].backing.changeId.partition("/")[0] != change_id.partition("/")[0]


def test_power_loss_switches_off_and_resets_tracking(simulator: Simulator, instance: Any) -> None:
    machine = find(instance, "lost")
    track(machine)
    change_id = disks(snapshot(machine))[0].backing.changeId
    simulator.control.call("power_loss", vm="lost")
    assert machine.runtime.powerState == "poweredOff"
    after = snapshot(machine)
    with pytest.raises(vim.fault.FileFault):
        machine.QueryChangedDiskAreas(after, 2000, 0, change_id)


@pytest.mark.parametrize(
    ("key", "offset", "property"), [(2001, 0, "deviceKey"), (2000, 8 * MIB, "startOffset")]
)
def test_wrong_arguments_are_named(instance: Any, key: int, offset: int, property: str) -> None:
    machine = find(instance, "paged")
    track(machine)
    frozen = snapshot(machine)
    with pytest.raises(vmodl.fault.InvalidArgument) as refused:
        machine.QueryChangedDiskAreas(frozen, key, offset, "*")
    assert refused.value.invalidProperty == property


def test_a_snapshot_from_before_tracking_is_a_file_fault(instance: Any) -> None:
    machine = find(instance, "late")
    frozen = snapshot(machine)
    with pytest.raises(vim.fault.FileFault):
        machine.QueryChangedDiskAreas(frozen, 2000, 0, "*")


def test_one_disk_can_be_left_untracked(instance: Any) -> None:
    machine = find(instance, "half")
    track(machine, **{"SCSI0__1.CTKenabled": "false"})
    first, second = disks(snapshot(machine))
    assert first.backing.changeId is not None
    assert second.backing.changeId is None


def test_special_disks_stay_out_of_snapshots(instance: Any) -> None:
    machine = find(instance, "special")
    track(machine)
    frozen = snapshot(machine)
    ids = [disk.backing.changeId for disk in disks(frozen)]
    assert ids[0] is not None
    assert ids[1:] == [None, None]
    with pytest.raises(vim.fault.MemorySnapshotOnIndependentDisk):
        wait(machine.CreateSnapshot_Task("with memory", "", True, False))


def test_a_shared_bus_forbids_snapshots_of_a_running_vm(instance: Any) -> None:
    with pytest.raises(vim.fault.SnapshotIncompatibleDeviceInVm):
        snapshot(find(instance, "node"))


def test_old_hardware_cannot_track(instance: Any) -> None:
    machine = find(instance, "old")
    assert machine.capability.changeTrackingSupported is False
    with pytest.raises(vmodl.fault.NotSupported, match="hardware version"):
        track(machine)


def test_quiesce_follows_the_tools_and_their_failures(simulator: Simulator, instance: Any) -> None:
    machine = find(instance, "quiesce")
    snapshot(machine, quiesce=True)
    assert machine.snapshot.rootSnapshotList[0].quiesced is True
    simulator.control.call("set", vm="quiesce", quiesce="application-fault")
    with pytest.raises(vim.fault.ApplicationQuiesceFault):
        snapshot(machine, quiesce=True)
    snapshot(machine, quiesce=False)
    silent = find(instance, "no-tools")
    snapshot(silent, quiesce=True)
    assert silent.snapshot.rootSnapshotList[0].quiesced is False


def test_create_snapshot_ex_quiesces_on_request(instance: Any) -> None:
    machine = find(instance, "plain")
    quiet = vim.vm.GuestQuiesceSpec(timeout=5)
    made = wait(machine.CreateSnapshotEx_Task("ex", None, False, quiet))
    assert machine.snapshot.rootSnapshotList[0].quiesced is True
    wait(made.RemoveSnapshot_Task(removeChildren=False))


def test_the_hierarchy_has_a_limit(instance: Any) -> None:
    machine = find(instance, "deep")
    for number in range(32):
        snapshot(machine, f"level {number}")
    with pytest.raises(vim.fault.TooManySnapshotLevels):
        snapshot(machine)
    wait(machine.RemoveAllSnapshots_Task())


def test_one_task_at_a_time(simulator: Simulator, instance: Any) -> None:
    machine = find(instance, "slow")
    simulator.control.call("set", task_seconds=0.5)
    try:
        running_task = machine.CreateSnapshot_Task("slow", "", False, False)
        until(lambda: running_task.info.state == "running" and running_task.info.progress)
        with pytest.raises(vim.fault.TaskInProgress) as refused:
            wait(machine.CreateSnapshot_Task("other", "", False, False))
        assert refused.value.task == running_task
        assert wait(running_task).config.name == "slow"
    finally:
        simulator.control.call("set", task_seconds=0.02)


def test_unmerged_files_need_consolidation(simulator: Simulator, instance: Any) -> None:
    machine = find(instance, "stuck")
    base = disks(machine)[0].backing.fileName
    wait(snapshot(machine).RemoveSnapshot_Task(removeChildren=False, consolidate=False))
    assert machine.snapshot is None
    assert machine.runtime.consolidationNeeded is True
    simulator.control.call("set", vm="stuck", consolidation="fails")
    with pytest.raises(vim.fault.FileLocked):
        wait(machine.ConsolidateVMDisks_Task())
    assert machine.runtime.consolidationNeeded is True
    simulator.control.call("set", vm="stuck", consolidation="normal")
    wait(machine.ConsolidateVMDisks_Task())
    assert machine.runtime.consolidationNeeded is False
    assert disks(machine)[0].backing.fileName == base
