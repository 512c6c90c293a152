"""vCenter, hosts and CloudStack misbehave; the machines arrive all the same, byte for byte."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.stack import Lab
from tests.rigs.stack.checks import assert_migrated, vcenter_vm
from tests.rigs.stack.client import Client, quick
from tests.rigs.stack.faults import in_mid_copy, slow_reads
from tests.rigs.stack.site import Site
from tests.rigs.stack.vcenter import remove_snapshots
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

LOST = "lost snapshot"


@pytest.fixture(scope="module", autouse=True)
def under_way(site: Site, client: Client) -> Iterator[None]:
    """All machines of this module are on their way at the same time, each with its trouble."""
    lab = site.lab
    _arm_before(lab)
    mapped = {
        "4000": {"networkid": site.ids["networkid"]},
        "4001": {"networkid": site.ids["networkid2"]},
    }
    with slow_reads(lab, LOST, 700):
        client.submit(
            quick(LOST, readers=2),
            quick("busy tasks"),
            quick("nfc busy"),
            quick("broken reads"),
            quick("cbt reset", delta_interval=300),
            quick("untracked disk", delta_interval=300),
            quick("expired"),
            quick("map lost", delta_interval=300),
            {
                **quick("lost answers", start_vm_after_import=True),
                "target": {"cloudstack": {"nic_mappings": mapped}},
            },
        )
        client.finalize("lost answers")
        client.wait(LOST, in_mid_copy)
        remove_snapshots(lab, LOST)
    yield
    lab.vcenter.call("clear_faults")
    lab.cloudstack.call("clear_faults")
    lab.esxi.call("clear_faults")


def _arm_before(lab: Lab) -> None:
    busy = {"vm": "busy tasks", "fault": "TaskInProgress"}
    lab.vcenter.call("fault", method="CreateSnapshot", count=2, **busy)
    lab.vcenter.call("fault", method="RemoveSnapshot", count=2, **busy)
    lab.vcenter.call("fault", method="ReconfigVM", count=1, **busy)
    lab.vcenter.call("fault", method="CreateSnapshot", fault="ConnectionDropped", vm="lost answers")
    lab.vcenter.call("fault", method="RemoveSnapshot", fault="ConnectionDropped", vm="lost answers")
    lab.esxi.call("inject_fault", kind="open_busy", vm=_moref(lab, "nfc busy"), count=3)
    lab.esxi.call("inject_fault", kind="read_error", vm=_moref(lab, "broken reads"), count=1)
    lab.esxi.call("inject_fault", kind="disconnect", vm=_moref(lab, "broken reads"), count=1)
    for command in ("importVm", "importVolume", "attachVolume", "addNicToVirtualMachine"):
        lab.cloudstack.call("fault", command=command, kind="drop_after")


def _moref(lab: Lab, vm: str) -> str:
    return str(lab.vm(vm)["moref"])


def _finish(site: Site, client: Client, vm: str) -> pb.Migration:
    client.finalize(vm)
    done = client.wait_done(vm)
    assert_migrated(site, done)
    return done


def test_answers_that_got_lost_do_not_double_anything(site: Site, client: Client) -> None:
    done = client.wait_done("lost answers")

    assert_migrated(site, done)
    assert len({disk.volume_id for disk in done.disks}) == 2
    tables = site.lab.cloudstack.call("state")["tables"]
    machines = [m for m in tables["virtualmachine"].values() if m["displayname"] == "lost answers"]
    assert [m["id"] for m in machines] == [done.target_vm_id]
    volumes = [
        v for v in tables["volume"].values() if v.get("virtualmachineid") == machines[0]["id"]
    ]
    assert len(volumes) == 2


def test_sessions_that_expire_are_renewed(site: Site, client: Client) -> None:
    client.wait_stage("expired", pb.STAGE_DELTA)
    assert site.lab.vcenter.call("expire_sessions")["expired"] > 0
    passes = client.get("expired").delta_passes

    client.wait_passes("expired", passes + 2)
    done = _finish(site, client, "expired")
    assert not done.error.message


def test_tracking_that_was_reset_costs_a_comparison_not_data(site: Site, client: Client) -> None:
    client.wait("cbt reset", lambda now: now.state == pb.STATE_WAITING)
    site.lab.vcenter.call("reset_cbt", vm="cbt reset")

    client.finalize("cbt reset", now=False)
    done = client.wait_done("cbt reset")

    assert_migrated(site, done)
    assert "cbt.reset" in client.events("cbt reset")
    delta = next(p for p in done.passes if p.kind == "delta")
    # Everything was read, what was equal was not written.
    assert delta.changed_bytes == sum(disk.capacity_bytes for disk in done.disks)
    assert delta.written_bytes < delta.read_bytes


def test_a_chunk_map_that_is_lost_or_torn_costs_a_comparison_not_data(
    site: Site, client: Client
) -> None:
    client.wait("map lost", lambda now: now.state == pb.STATE_WAITING)
    images = [Path(disk.target_path).name for disk in client.get("map lost").disks]
    missing, torn = (next(site.control_dir.rglob(f"{image}*.map")) for image in images)
    missing.unlink()
    os.truncate(torn, 100)

    done = _finish(site, client, "map lost")

    assert_migrated(site, done)
    assert client.events("map lost").count("map.lost") == 2


def test_a_disk_without_tracking_is_tracked_or_compared(site: Site, client: Client) -> None:
    client.wait("untracked disk", lambda now: now.state == pb.STATE_WAITING)
    client.finalize("untracked disk", now=False)

    done = client.wait_done("untracked disk")

    assert_migrated(site, done)
    assert [p.kind for p in done.passes] == ["base", "delta", "final"]


def test_tasks_in_progress_are_waited_for(site: Site, client: Client) -> None:
    client.wait_passes("busy tasks", 1)
    armed = [f["vm"] for f in site.lab.vcenter.call("faults")["faults"]]
    assert _moref(site.lab, "busy tasks") not in armed

    _finish(site, client, "busy tasks")


def test_a_snapshot_removed_by_somebody_is_taken_anew(site: Site, client: Client) -> None:
    client.wait_stage(LOST, pb.STAGE_DELTA)
    assert "snapshot.lost" in client.events(LOST)

    _finish(site, client, LOST)
    assert vcenter_vm(site.lab, LOST)["consolidation_needed"] is False


def test_hosts_without_a_free_connection_are_asked_again(site: Site, client: Client) -> None:
    client.wait_passes("nfc busy", 1)
    _finish(site, client, "nfc busy")


def test_reads_that_fail_once_are_repeated(site: Site, client: Client) -> None:
    client.wait_passes("broken reads", 1)
    _finish(site, client, "broken reads")
