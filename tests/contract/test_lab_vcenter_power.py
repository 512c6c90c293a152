"""Power, guest shutdown, faults on demand and restarts of the simulated vCenter."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from lab.control import ControlError
from lab.scenario import Tools
from tests.rigs.lab.vcenter import (
    PC,
    Simulator,
    disks,
    find,
    one_datacenter,
    running,
    start,
    until,
    vm,
    wait,
)

_ON, _OFF = "poweredOn", "poweredOff"


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    directory: Path = tmp_path_factory.mktemp("lab")
    scenario = one_datacenter(
        vm("on"),
        vm("off", powered_on=False),
        vm("stubborn"),
        vm("no-tools", tools=Tools.NOT_INSTALLED),
        vm("faulty"),
        vm("watched"),
        vm("doomed", powered_on=False),
        vm("renamed"),
    )
    with running(directory, scenario) as simulator:
        yield simulator


@pytest.fixture
def instance(simulator: Simulator) -> Iterator[Any]:
    with simulator.client() as instance:
        yield instance


def test_power_cycle_and_wrong_states(instance: Any) -> None:
    machine = find(instance, "off")
    wait(machine.PowerOnVM_Task())
    assert machine.runtime.powerState == _ON
    assert machine.runtime.bootTime is not None
    with pytest.raises(vim.fault.InvalidPowerState) as refused:
        wait(machine.PowerOnVM_Task())
    assert refused.value.existingState == _ON
    wait(machine.ResetVM_Task())
    wait(machine.PowerOffVM_Task())
    assert machine.runtime.powerState == _OFF
    with pytest.raises(vim.fault.InvalidPowerState):
        machine.ShutdownGuest()


def test_a_guest_shuts_down_by_itself(instance: Any) -> None:
    machine = find(instance, "on")
    machine.ShutdownGuest()
    until(lambda: machine.runtime.powerState == _OFF)
    wait(machine.PowerOnVM_Task())


def test_without_tools_the_guest_cannot_be_shut_down(instance: Any) -> None:
    with pytest.raises(vim.fault.ToolsUnavailable):
        find(instance, "no-tools").ShutdownGuest()


def test_a_guest_can_ignore_its_shutdown(simulator: Simulator, instance: Any) -> None:
    machine = find(instance, "stubborn")
    simulator.control.call("set", vm="stubborn", shutdown="ignore")
    machine.ShutdownGuest()
    wait(machine.ReconfigVM_Task(vim.vm.ConfigSpec(annotation="still there")))
    assert machine.runtime.powerState == _ON
    wait(machine.PowerOffVM_Task())
    assert machine.runtime.powerState == _OFF


def test_a_property_filter_reports_changes(instance: Any) -> None:
    machine = find(instance, "watched")
    collector = instance.content.propertyCollector
    watched = collector.CreateFilter(
        PC.FilterSpec(
            objectSet=[PC.ObjectSpec(obj=machine)],
            propSet=[PC.PropertySpec(type=vim.VirtualMachine, pathSet=["runtime.powerState"])],
        ),
        True,
    )
    first = collector.WaitForUpdatesEx(None, PC.WaitOptions(maxWaitSeconds=5))
    (change,) = first.filterSet[0].objectSet[0].changeSet
    assert (change.name, change.val) == ("runtime.powerState", _ON)
    assert collector.WaitForUpdatesEx(first.version, PC.WaitOptions(maxWaitSeconds=0)) is None
    task = machine.PowerOffVM_Task()
    second = collector.WaitForUpdatesEx(first.version, PC.WaitOptions(maxWaitSeconds=5))
    (change,) = second.filterSet[0].objectSet[0].changeSet
    assert change.val == _OFF
    wait(task)
    watched.Destroy()


def test_deleted_vms_are_gone(instance: Any) -> None:
    machine = find(instance, "doomed")
    wait(machine.Destroy_Task())
    with pytest.raises(vmodl.fault.ManagedObjectNotFound) as refused:
        print(machine.name)
    assert refused.value.obj == machine


# -- faults on demand


def test_a_task_fails_as_often_as_asked(simulator: Simulator, instance: Any) -> None:
    machine = find(instance, "faulty")
    simulator.control.call(
        "fault", method="CreateSnapshot", fault="TaskInProgress", vm="faulty", count=2
    )
    for _ in range(2):
        with pytest.raises(vim.fault.TaskInProgress):
            wait(machine.CreateSnapshot_Task("s", "", False, False))
    assert machine.snapshot is None
    wait(machine.CreateSnapshot_Task("s", "", False, False))
    assert simulator.control.call("faults") == {"faults": []}


def test_a_fault_after_the_effect_leaves_the_effect(simulator: Simulator, instance: Any) -> None:
    machine = find(instance, "faulty")
    wait(machine.RemoveAllSnapshots_Task())
    simulator.control.call(
        "fault", method="CreateSnapshot_Task", fault="FileFault", when="after", vm="faulty"
    )
    with pytest.raises(vim.fault.FileFault):
        wait(machine.CreateSnapshot_Task("orphan", "", False, False))
    assert machine.snapshot.rootSnapshotList[0].name == "orphan"


def test_a_dropped_connection_hides_a_task_that_runs(simulator: Simulator, instance: Any) -> None:
    machine = find(instance, "faulty")
    wait(machine.RemoveAllSnapshots_Task())
    simulator.control.call("fault", method="CreateSnapshot", fault="ConnectionDropped")
    with pytest.raises((OSError, HTTPException)):
        machine.CreateSnapshot_Task("unheard", "", False, False)
    until(lambda: machine.snapshot is not None)
    assert machine.snapshot.rootSnapshotList[0].name == "unheard"


def test_a_call_can_be_refused(simulator: Simulator, instance: Any) -> None:
    simulator.control.call("fault", method="ShutdownGuest", fault="NoPermission", vm="renamed")
    with pytest.raises(vim.fault.NoPermission) as refused:
        find(instance, "renamed").ShutdownGuest()
    assert refused.value.privilegeId == "VirtualMachine.Interact.PowerOff"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"method": "CreateSnapshott", "fault": "FileFault"}, "did you mean 'CreateSnapshot"),
        ({"method": "CreateSnapshot", "fault": "FileFalt"}, "did you mean 'FileFault'"),
        ({"method": "CreateSnapshot", "fault": "FileFault", "when": "later"}, "before or after"),
        ({"method": "CreateSnapshot"}, "delay_seconds"),
    ],
)
def test_a_wrong_rule_is_refused_with_a_hint(
    simulator: Simulator, arguments: dict[str, str], hint: str
) -> None:
    with pytest.raises(ControlError, match=hint) as refused:
        simulator.control.call("fault", **arguments)
    assert refused.value.kind == "invalid"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"task_second": 1}, "did you mean 'task_seconds'"),
        ({"task_seconds": "soon"}, "is a number"),
        ({"vm": "on", "shutdown": "ignor"}, "did you mean 'ignore'"),
        ({"vm": "onn", "shutdown": "ignore"}, "did you mean 'on'"),
    ],
)
def test_a_wrong_setting_is_refused_with_a_hint(
    simulator: Simulator, arguments: dict[str, object], hint: str
) -> None:
    with pytest.raises(ControlError, match=hint):
        simulator.control.call("set", **arguments)


# -- restarts


def test_state_survives_a_kill(tmp_path: Path) -> None:
    with running(tmp_path, one_datacenter(vm("one"), vm("two", powered_on=False))) as first:
        with first.client() as instance:
            machine = find(instance, "one")
            wait(machine.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=True)))
            made = wait(machine.CreateSnapshot_Task("kept", "", False, False))
            wait(machine.Rename_Task("renamed"))
            wait(find(instance, "two").PowerOnVM_Task())
            reference, uuid = machine._moId, machine.config.instanceUuid
            about = instance.content.about.instanceUuid
        first.kill()
        second = start(tmp_path)
        try:
            with second.client() as instance:
                machine = find(instance, "renamed")
                assert (machine._moId, machine.config.instanceUuid) == (reference, uuid)
                assert machine.config.changeTrackingEnabled is True
                assert machine.snapshot.currentSnapshot._moId == made._moId
                assert disks(machine.snapshot.currentSnapshot)[0].backing.changeId
                assert find(instance, "two").runtime.powerState == _ON
                assert instance.content.about.instanceUuid == about
                newer = wait(machine.CreateSnapshot_Task("newer", "", False, False))
                assert newer._moId != made._moId
        finally:
            second.stop()
