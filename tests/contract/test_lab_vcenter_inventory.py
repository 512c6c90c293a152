"""Reading the simulated inventory with pyVmomi: properties, traversal, paging, search."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from lab.scenario import Content, Scenario
from lab.scenarios import built_in
from tests.rigs.host_speed import slowness
from tests.rigs.lab.vcenter import PC, Simulator, disks, find, retrieve, running, values


def without_content(scenario: Scenario) -> Scenario:
    """The same VMs with disks without content, which need no ESXi side."""
    return replace(
        scenario,
        datacenters=tuple(
            replace(
                datacenter,
                vms=tuple(
                    replace(m, disks=tuple(replace(d, content=Content.NONE) for d in m.disks))
                    for m in datacenter.vms
                ),
            )
            for datacenter in scenario.datacenters
        ),
    )


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    directory: Path = tmp_path_factory.mktemp("lab")
    with running(directory, without_content(built_in("small"))) as simulator:
        yield simulator


@pytest.fixture
def instance(simulator: Simulator) -> Iterator[Any]:
    with simulator.client() as instance:
        yield instance


def test_all_datacenters_and_nested_folders_are_seen(instance: Any) -> None:
    names = [values(item)["name"] for item in retrieve(instance, ["name"])]
    assert names.count("twin") == 2
    assert {"größe-ünïcode-数据库", "slash%2fin%2fname", "no tools"} <= set(names)
    assert len(names) == 15


@pytest.mark.parametrize("page", [1, 4, 100])
def test_pages_hold_every_object_once(instance: Any, page: int) -> None:
    found = retrieve(instance, ["name"], page=page)
    assert len({item.obj._moId for item in found}) == len(found) == 15


def test_nested_paths_come_under_their_own_names(instance: Any) -> None:
    paths = [
        "config.hardware.device",
        "runtime.powerState",
        "config.bootOptions.efiSecureBootEnabled",
    ]
    found = {values(item)["name"]: values(item) for item in retrieve(instance, ["name", *paths])}
    windows = found["windows uefi"]
    assert set(windows) == {"name", *paths}
    assert windows["config.bootOptions.efiSecureBootEnabled"] is True
    assert windows["runtime.powerState"] == vim.VirtualMachine.PowerState.poweredOn
    assert found["switched-off"]["runtime.powerState"] == "poweredOff"


def test_unset_properties_are_left_out(instance: Any) -> None:
    assert all(not item.propSet for item in retrieve(instance, ["snapshot"]))


def test_an_unknown_property_is_invalid(instance: Any) -> None:
    with pytest.raises(vmodl.query.InvalidProperty) as refused:
        retrieve(instance, ["config.hardwear"])
    assert refused.value.name == "config.hardwear"


def test_controllers_units_and_keys_are_vspheres(instance: Any) -> None:
    machine = find(instance, "many-controllers")
    by_key = {device.key: device for device in machine.config.hardware.device}
    found = [
        (type(by_key[d.controllerKey]).__name__.rpartition(".")[2], d.key, d.unitNumber)
        for d in disks(machine)
    ]
    assert found == [
        ("ParaVirtualSCSIController", 2000, 0),
        ("VirtualLsiLogicController", 2016, 0),
        ("VirtualNVMEController", 32000, 0),
        ("VirtualIDEController", 3000, 0),
        ("VirtualAHCIController", 16000, 0),
    ]


def test_network_adapters_name_their_networks(instance: Any) -> None:
    machine = find(instance, "windows uefi")
    first, second = [
        d
        for d in machine.config.hardware.device
        if isinstance(d, vim.vm.device.VirtualEthernetCard)
    ]
    assert isinstance(first, vim.vm.device.VirtualVmxnet3)
    assert isinstance(second, vim.vm.device.VirtualE1000e)
    assert (first.key, second.key) == (4000, 4001)
    near: Any = first.backing
    far: Any = second.backing
    assert near.deviceName == "VM Network"
    assert far.port.portgroupKey == machine.network[1].key
    assert machine.network[1].name == "Backend VLAN 20"
    assert str(first.macAddress).startswith("00:50:56:")


def test_special_disks_look_special(instance: Any) -> None:
    _flat, physical, virtual = disks(find(instance, "rdm"))
    assert physical.backing.compatibilityMode == "physicalMode"
    assert virtual.backing.compatibilityMode == "virtualMode"
    assert disks(find(instance, "independent-disk"))[1].backing.diskMode == "independent_persistent"
    node = find(instance, "cluster-node").config.hardware.device
    buses = [d.sharedBus for d in node if isinstance(d, vim.vm.device.VirtualSCSIController)]
    assert set(buses) == {"physicalSharing"}


def test_single_properties_are_fetched(instance: Any) -> None:
    machine = find(instance, "no tools")
    assert machine.guest.toolsStatus == "toolsNotInstalled"
    assert machine.summary.config.numVirtualDisks == 1
    assert machine.runtime.host.parent.name == "Cluster A"
    assert machine.datastore[0].summary.type == "VMFS"
    assert machine.layoutEx.disk[0].chain[0].fileKey
    assert machine.snapshot is None


def test_the_tree_can_be_walked_from_the_root(instance: Any) -> None:
    """The classic traversal with selection specs that refer to each other by name."""
    folders = PC.TraversalSpec(
        name="folders",
        type=vim.Folder,
        path="childEntity",
        skip=False,
        selectSet=[PC.SelectionSpec(name="folders"), PC.SelectionSpec(name="vms")],
    )
    vms = PC.TraversalSpec(
        name="vms",
        type=vim.Datacenter,
        path="vmFolder",
        skip=False,
        selectSet=[PC.SelectionSpec(name="folders")],
    )
    spec = PC.FilterSpec(
        objectSet=[
            PC.ObjectSpec(obj=instance.content.rootFolder, skip=True, selectSet=[folders, vms])
        ],
        propSet=[PC.PropertySpec(type=vim.VirtualMachine, pathSet=["name"])],
    )
    found = instance.content.propertyCollector.RetrieveProperties([spec])
    assert len({item.obj._moId for item in found}) == 15


def test_every_kind_of_entity_has_a_name_and_a_parent(instance: Any) -> None:
    kinds = {
        vim.Datacenter: 2,
        vim.ClusterComputeResource: 2,
        vim.HostSystem: 3,
        vim.Datastore: 3,
        vim.Network: 4,
        vim.ResourcePool: 2,
    }
    for kind, count in kinds.items():
        found = retrieve(instance, ["name", "parent"], kind)
        assert len(found) == count, kind
        assert all({"name", "parent"} == set(values(item)) for item in found)


def test_search_by_uuid_path_and_child(instance: Any) -> None:
    index = instance.content.searchIndex
    machine = index.FindByInventoryPath("Europe/East DC/vm/Windows/Tier 1/windows uefi")
    assert machine.name == "windows uefi"
    assert index.FindByUuid(None, machine.config.instanceUuid, True, True) == machine
    assert index.FindByUuid(None, machine.config.uuid, True) == machine
    assert index.FindAllByUuid(None, machine.config.uuid, True, True) == []
    assert index.FindChild(machine.parent, "windows uefi") == machine
    assert index.FindChild(machine.parent, "linux-bios") is None
    assert index.FindByInventoryPath("Europe/Nowhere/vm") is None
    assert index.FindByInventoryPath("West/vm/R%2fD/slash%2fin%2fname") is not None


def test_a_search_stays_in_its_datacenter(instance: Any) -> None:
    index = instance.content.searchIndex
    uuid = find(instance, "linux-bios").config.instanceUuid
    west = index.FindByInventoryPath("West")
    assert index.FindByUuid(west, uuid, True, True) is None


def test_a_thousand_vms_are_listed_in_under_three_seconds(tmp_path: Path) -> None:
    paths = [
        "name",
        "parent",
        "runtime.powerState",
        "runtime.host",
        "config.instanceUuid",
        "config.guestFullName",
        "config.firmware",
        "guest.toolsRunningStatus",
        "summary.config",
        "datastore",
        "network",
    ]
    with running(tmp_path, built_in("fleet")) as simulator, simulator.client() as instance:
        patience = 3 * slowness()
        began = time.monotonic()
        assert len(retrieve(instance, paths)) == 1000
        assert time.monotonic() - began < patience
