"""The built-in scenarios, and how disks get their places."""

from __future__ import annotations

import pytest

from lab import scenario
from lab.scenario import MIB, Controller, DiskSpec
from lab.scenarios import UnknownScenarioError, built_in, names
from lab.vcenter.world.inventory import Inventory
from lab.vcenter.world.vm_state import place_disks
from lab.vcenter.world.world import initial_records


@pytest.mark.parametrize("name", names())
def test_scenarios_survive_json_and_give_unique_identities(name: str) -> None:
    wanted = built_in(name)
    assert scenario.load(scenario.dump(wanted)) == wanted
    records = list(initial_records(wanted, Inventory(wanted)))
    assert len(records) == len(wanted.vms)
    assert len({record.instance_uuid for record in records}) == len(records)
    paths = [disk.path for record in records for disk in record.disks]
    assert len(set(paths)) == len(paths)
    macs = [mac for record in records for mac in record.macs]
    assert len(set(macs)) == len(macs)


def test_an_unknown_scenario_names_the_nearest() -> None:
    with pytest.raises(UnknownScenarioError, match="did you mean 'fleet'"):
        built_in("fleat")


def test_disks_skip_the_scsi_controllers_own_unit() -> None:
    placed = list(place_disks(tuple(DiskSpec(MIB) for _ in range(9))))
    assert [unit for _spec, unit, _key in placed] == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert placed[-1][2] == 2009


def test_each_bus_counts_for_itself() -> None:
    specs = (
        DiskSpec(MIB),
        DiskSpec(MIB, controller=Controller.LSILOGIC, bus=1),
        DiskSpec(MIB, controller=Controller.SATA),
        DiskSpec(MIB, controller=Controller.SATA, unit=4),
    )
    assert [key for _spec, _unit, key in place_disks(specs)] == [2000, 2016, 16000, 16004]
