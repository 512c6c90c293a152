"""``v2c run`` and the commands beside it, as an operator at a shell uses them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rigs.stack.checks import (
    assert_migrated,
    data_path_of,
    eventually,
    processes_of,
    snapshots,
)
from tests.rigs.stack.client import client_of, quick
from tests.rigs.stack.faults import slow_reads
from tests.rigs.stack.scenario import machine, scenario
from tests.rigs.stack.site import Site, running_site
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

PAST = "2020-02-02T02:02:02"


@pytest.fixture(scope="module")
def lab_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    names = ("plain", "second", "third", "one by one", "by one", "stopped")
    contents = scenario(*(machine(name, 8) for name in names))
    with running_site(tmp_path_factory.mktemp("cli"), contents) as site:
        yield site


def _states(site: Site, *vms: str) -> dict[str, dict[str, object]]:
    """What state.json has of machines after everything has ended."""
    found = {}
    for vm in vms:
        moref = site.lab.vm(vm)["moref"]
        found[vm] = json.loads((site.control_dir / f"{vm}_{moref}" / "state.json").read_text())
    return found


def test_run_with_two_specs_status_finalize_and_an_end(lab_site: Site) -> None:
    site = lab_site.variant("two")
    first = site.spec_file("first", quick("plain"))
    second = site.spec_file(
        "second", quick("second", finalize_at=PAST), quick("third", finalize_at=PAST)
    )
    run = site.run(first, second)
    run.wait_for("plain: delta pass 1 done")

    refused = site.v2c("serve", "--listen", "127.0.0.1:0")
    assert refused.wait() == 1
    assert f"(process {run.pid})" in refused.err
    rows = json.loads(site.v2c("status", "--spec", str(first), "--json").out)
    assert [(row["vm_name"], row["stage"]) for row in rows] == [("plain", "delta")]
    assert rows[0]["delta_passes"] >= 1

    asked = site.v2c("finalize", "--spec", str(first), "--vm", "plain")
    assert asked.wait() == 0, asked.err
    assert "plain: finalize requested" in asked.out
    assert run.wait() == 0, run.err

    lines = run.out.splitlines()
    for vm in ("plain", "second", "third"):
        of_vm = [line for line in lines if f" {vm}: " in line]
        stages = ("base_copy", "delta", "final_sync", "verifying", "import_root_disk", "done")
        positions = [
            next(i for i, line in enumerate(of_vm) if f"{vm}: {s}" in line) for s in stages
        ]
        assert positions == sorted(positions)
        assert [line for line in lines if line.startswith(f"{vm}: done, downtime")]
    assert "\x1b" not in run.out
    afterwards = json.loads(site.v2c("status", "--spec", str(second), "--json").out)
    assert [row["state"] for row in afterwards] == ["done", "done"]
    assert snapshots(site.lab) == 0
    assert {row["status"] for row in _states(site, "plain", "second", "third").values()} == {"done"}
    eventually(lambda: processes_of(site))


def test_one_failure_among_several_is_the_exit_code(lab_site: Site) -> None:
    site = lab_site.variant("failing")
    spec = site.spec_file(
        "mixed",
        quick("one by one", finalize_at=PAST),
        quick("by one", finalize_at=PAST),
        quick("no such machine"),
    )

    run = site.run(spec, arguments=("--parallel-vms", "1"))

    assert run.wait() == 1
    assert [line for line in run.out.splitlines() if line.startswith("no such machine: failed")]
    states = _states(site, "one by one", "by one")
    assert {state["status"] for state in states.values()} == {"done"}
    # One full copy at a time, whatever else they do.
    spans = sorted(_span(state, "connecting_vcenter", "base_copy") for state in states.values())
    assert spans[0][1] <= spans[1][0]


def _span(state: dict[str, object], first: str, last: str) -> tuple[str, str]:
    times = state["stage_times"]
    assert isinstance(times, list)
    start = next(entry["start_time"] for entry in times if entry["stage"] == first)
    end = next(entry["end_time"] for entry in times if entry["stage"] == last)
    return start, end


def test_ctrl_c_stops_cleanly_and_the_same_command_continues(lab_site: Site) -> None:
    site = lab_site.variant("stopped")
    spec = site.spec_file("stopped", quick("stopped", finalize_at=PAST, readers=1))
    with slow_reads(site.lab, "stopped", 500):
        run = site.run(spec)
        run.wait_for("stopped: base_copy")
        with client_of(site) as client:
            before = client.wait("stopped", lambda now: any(d.done_bytes for d in now.disks)).id
        run.interrupt()
        assert run.wait() == 130
    assert "run the same command again to continue" in run.out
    assert processes_of(site) == {}
    kept = _states(site, "stopped")["stopped"]
    assert (kept["id"], kept["stage"]) == (before, "base_copy")
    rows = json.loads(site.v2c("status", "--spec", str(spec), "--json").out)
    assert rows[0]["stage"] == "base_copy"

    again = site.run(spec)
    with client_of(site) as client:
        again.wait_for("stopped: import_root_disk")
        ending = client.get("stopped")
    assert again.wait() == 0, again.out
    assert ending.id == before
    ended = _states(site, "stopped")["stopped"]
    assert ended["status"] == "done"
    ending.state = pb.STATE_DONE
    ending.target_vm_id = str(ended["target_vm_id"])
    ending.open_debts = 0
    assert_migrated(site, ending)
    assert data_path_of(site) == {}
    assert not Path(site.control_dir / "run" / "orchestrator.sock").exists()
