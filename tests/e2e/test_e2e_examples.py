"""Every file of examples/ migrates machines of the lab."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.demo import files
from lab.scenario import MIB, Content, Controller, DiskSpec, Scenario, VmSpec
from tests.rigs.stack.checks import assert_migrated, cloudstack_rows
from tests.rigs.stack.client import Client, client_of
from tests.rigs.stack.scenario import disk, machine, scenario
from tests.rigs.stack.site import Process, Site, running_site, serving

EXAMPLES = Path(__file__).parents[2] / "examples"
SPECS = sorted(EXAMPLES.glob("spec.*.yaml"))
NAMES = {"web01": 1, "web02": 1, "app server 02": 2, "db01": 2}
"""The machines the examples speak of, and their adapters."""


def _name(vm: str, spec: Path) -> str:
    """Each example has machines of its own: one machine is not migrated twice."""
    return f"{vm} {SPECS.index(spec)}"


def _machines() -> Scenario:
    found: list[VmSpec] = []
    for spec in SPECS:
        for vm, nics in NAMES.items():
            if _mentions(spec.read_text(), vm):
                disks = [disk(8)] * (1 if nics == 1 else 2)
                if vm == "app server 02" and ".single-vm." in spec.name:
                    disks.append(_on_second_controller())
                found.append(machine(_name(vm, spec), *disks, nics=nics))
    return scenario(*found)


def _on_second_controller() -> DiskSpec:
    return DiskSpec(8 * MIB, controller=Controller.LSILOGIC_SAS, bus=1, content=Content.PATTERN)


def _mentions(text: str, vm: str) -> bool:
    return re.search(rf"name: {vm}$", text, re.MULTILINE) is not None


def _prepared(spec: Path) -> str:
    """The example's text with the names of this lab's machines, and nothing to convert: its small
    disks hold no system, those of the demo do."""
    text = spec.read_text()
    for vm in NAMES:
        text = re.sub(rf"(?m)name: {vm}$", f"name: {_name(vm, spec)}", text)
    text = text.replace("run_virt_v2v: true", "run_virt_v2v: false")
    return re.sub(r"finalize_settle_seconds: \d+", "finalize_settle_seconds: 0", text)


def _config(site: Site) -> dict[str, Any]:
    """examples/config.yaml with this lab's addresses instead of its placeholders."""
    shown = yaml.safe_load((EXAMPLES / "config.yaml").read_text())
    for section in ("vcenter", "cloudstack"):
        shown[section] |= site.content[section]
    shown["migration"] |= {
        "vddk_path": site.content["migration"]["vddk_path"],
        "control_dir": str(site.control_dir),
        "specs_dir": str(site.directory / "specs"),
        "workdir": str(site.directory / "work"),
        "finalize_settle_seconds": 0,
        "parallel_vms": len(SPECS),
    }
    # The placeholders' ids are a lab's, so the rest stays as it is in the file.
    return dict(shown)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Client, list[Process]]]:
    """All examples at the same time, each in a ``v2c run`` at one server."""
    with running_site(tmp_path_factory.mktemp("examples"), _machines()) as site:
        site.content = _config(site)
        files.write_yaml(site.config, site.content)
        with serving(site), client_of(site) as client:
            started = []
            for spec in SPECS:
                copy = site.directory / spec.name
                copy.write_text(_prepared(spec))
                started.append(site.run(copy))
            yield site, client, started
            for process in started:
                process.end()


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_an_example_migrates(spec: Path, runs: tuple[Site, Client, list[Process]]) -> None:
    site, client, started = runs
    run = started[SPECS.index(spec)]
    vms = [_name(vm, spec) for vm in NAMES if _mentions(spec.read_text(), vm)]
    assert vms
    for vm in vms:
        run.wait_for(f"{vm}: ")
        client.finalize(vm)

    assert run.wait(90) == 0, run.out

    targets = {row["id"]: row for row in cloudstack_rows(site.lab, "virtualmachine")}
    for vm in vms:
        done = client.get(vm)
        assert_migrated(site, done)
        assert f"{vm}: done, downtime" in run.out
        arrived = {nic["macaddress"] for nic in targets[done.target_vm_id]["nic"]}
        if ".multi-nic." in spec.name:
            # CloudStack gives the first adapter an address of its own: importVm takes none.
            _, second = (nic["mac"] for nic in site.lab.vm(vm)["nics"])
            assert len(arrived) == 2
            assert second in arrived
