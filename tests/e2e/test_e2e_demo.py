"""The demo, as a newcomer runs it: two machines, one of them converted, and the proof."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab import scenarios
from lab.scenario import VmSpec
from tests.rigs.stack.site import Process


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_demo_proves_what_it_promises(tmp_path: Path) -> None:
    result_file = tmp_path / "build" / "demo.json"

    demo = Process("demo", "--result", str(result_file))

    assert demo.wait(380) == 0, demo.out + demo.err
    assert "PROVEN: every byte arrived" in demo.out
    result = json.loads(result_file.read_text())
    assert result["proven"] is True
    machines = {vm.name: vm for vm in scenarios.built_in("demo").vms}
    assert {vm["vm"] for vm in result["vms"]} == set(machines)
    for vm in result["vms"]:
        _assert_proven(vm, machines[vm["vm"]])


def _assert_proven(vm: dict[str, Any], source: VmSpec) -> None:
    assert vm["state"] == "done"
    stages = [entry["stage"] for entry in vm["stages"]]
    assert stages[0] == "init"
    assert stages[-1] == "done"
    assert all(entry["start"] for entry in vm["stages"])
    assert ("converting" in stages) is (vm["vm"] == "web01")
    kinds = [entry["kind"] for entry in vm["passes"]]
    assert kinds == ["base", *["delta"] * (len(kinds) - 2), "final"]
    assert kinds.count("delta") >= 2
    assert all(entry["read_bytes"] > 0 and entry["seconds"] > 0 for entry in vm["passes"])
    parts = vm["downtime"]["parts"]
    assert {"shutdown", "final_sync", "verifying", "import_root_disk"} <= set(parts)
    assert vm["downtime"]["seconds"] == pytest.approx(sum(parts.values()), abs=1.5)
    assert len(vm["disks"]) == len(source.disks)
    for disk in vm["disks"]:
        assert disk["compared_bytes"] == disk["capacity_bytes"] > 0
        assert disk["identical"] is True
        assert disk["last_writes_found"] == disk["last_writes"] > 0
    assert vm["vcenter"] == {"power": "poweredOff", "snapshots": []}
    target = vm["cloudstack"]
    assert target["state"] == "Running"
    assert target["displayname"] == vm["vm"]
    assert len(target["volumes"]) == len(source.disks)
    # CloudStack gives the first adapter an address of its own: importVm takes none.
    assert len(target["nics"]) == len(source.nics)
    assert [nic["macaddress"] for nic in target["nics"][1:]] == [nic.mac for nic in source.nics[1:]]
