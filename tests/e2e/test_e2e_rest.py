"""Whole migrations over the REST API of ``v2c serve``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import yaml

from tests.rigs.stack.checks import assert_migrated, vcenter_vm
from tests.rigs.stack.client import Client, quick
from tests.rigs.stack.site import Serving, Site

STATUS_KEYS = {
    "stage",
    "next_stage",
    "finalize_requested",
    "finalize_now_requested",
    "overall_progress",
    "transfer_speed_mbps",
    "disk_progress",
}


@pytest.fixture(scope="module")
def rest(stack: Serving) -> Iterator[httpx.Client]:
    """The API with its token."""
    assert stack.token, "the first start prints the token"
    headers = {"Authorization": f"Bearer {stack.token}"}
    with httpx.Client(base_url=stack.rest, headers=headers, timeout=30) as opened:
        yield opened


def _wait(
    rest: httpx.Client, vm: str, condition: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while True:
        now: dict[str, Any] = rest.get(f"/migration/status/{vm}").raise_for_status().json()
        if condition(now):
            return now
        assert now["status"] != "failed", now
        assert time.monotonic() < deadline, now
        time.sleep(0.1)


def test_everything_but_health_wants_the_token(stack: Serving, rest: httpx.Client) -> None:
    with httpx.Client(base_url=stack.rest) as stranger:
        assert stranger.get("/health").json() == {"status": "ok"}
        for path in ("/vmware/vms", "/cloudstack/zones", "/migration/jobs", "/migration/status/x"):
            assert stranger.get(path).status_code == 401
        wrong = {"Authorization": f"Bearer {stack.token[:-1]}x"}
        assert stranger.get("/migration/jobs", headers=wrong).status_code == 401
        assert stranger.post("/migration/start", headers=wrong).status_code == 401
    assert rest.get("/migration/jobs").status_code == 200


def test_the_inventory_gives_what_a_spec_needs(site: Site, rest: httpx.Client) -> None:
    machines = {vm["name"]: vm for vm in rest.get("/vmware/vms").json()["vms"]}
    assert [disk["unit"] for disk in machines["by rest"]["disks"]] == [0, 1]
    assert [nic["key"] for nic in machines["by rest"]["nics"]] == [4000]
    roles = {
        "zones": "zoneid",
        "clusters": "clusterid",
        "storage": "storageid",
        "networks": "networkid",
        "diskofferings": "diskofferingid",
        "serviceofferings": "serviceofferingid",
        "ostypes": "ostypeid",
    }
    for kind, role in roles.items():
        listed = rest.get(f"/cloudstack/{kind}").raise_for_status().json()
        assert site.ids[role] in {item["id"] for item in listed["items"]}, kind


def test_a_migration_from_spec_to_done(site: Site, client: Client, rest: httpx.Client) -> None:
    vm = "by rest"
    submitted = rest.post("/migration/spec", content=yaml.safe_dump(quick(vm)))
    assert submitted.status_code == 201
    (entry,) = submitted.json()["vms"]
    assert rest.get(f"/migration/status/{vm}").json()["status"] == "queued"

    assert rest.post("/migration/start", json={"vms": [vm]}).json()["count"] == 1
    copied = _wait(rest, vm, lambda now: now["stage"] == "delta")
    assert copied.keys() >= STATUS_KEYS
    assert copied["next_stage"] == "final_sync"
    assert copied["disk_progress"].keys() == {"0", "1"}
    assert copied["finalize_requested"] is copied["finalize_now_requested"] is False
    assert 0 < copied["overall_progress"] < 100

    asked = rest.post(f"/migration/finalize/{vm}", params={"now": "true"}).json()
    assert asked["finalize_now_requested"] is True
    # Tools do not answer in this guest: somebody has to decide.
    _wait(
        rest,
        vm,
        lambda now: now["stage"] == "awaiting_shutdown_action" and now["status"] == "waiting",
    )
    assert vcenter_vm(site.lab, vm)["power"] == "poweredOn"
    forced = rest.post(f"/migration/shutdown/{vm}", params={"action": "force"})
    assert forced.status_code == 200
    done = _wait(rest, vm, lambda now: now["status"] == "done")

    assert done["migration_id"] == entry["migration_id"]
    assert done["overall_progress"] == 100
    assert done["target_vm_id"]
    jobs = rest.get("/migration/jobs", params={"status": "done"}).json()["jobs"]
    assert entry["migration_id"] in {job["migration_id"] for job in jobs}
    actions = [e["action"] for e in rest.get(f"/migration/logs/{vm}").json()["entries"]]
    assert {"vm.found", "pass.durable", "operator.finalize", "migration.done"} <= set(actions)
    assert_migrated(site, client.get(vm))


def test_a_spec_with_a_mistake_is_refused_with_its_line(rest: httpx.Client) -> None:
    text = "vm:\n  name: twin\nmigration:\n  delta_intervall: 5\n"

    refused = rest.post("/migration/spec", content=text)

    assert refused.status_code == 422
    (mistake,) = refused.json()["errors"]
    assert (mistake["line"], mistake["field"]) == (4, "migration.delta_intervall")
    assert "delta_interval" in mistake["hint"]


def test_an_ambiguous_name_is_a_conflict_with_candidates(site: Site, rest: httpx.Client) -> None:
    morefs = sorted(vm["moref"] for vm in site.lab.info["vms"] if vm["name"] == "twin")
    vms = [{"vm": {"name": "twin", "moref": moref}} for moref in morefs]
    assert rest.post("/migration/spec", content=yaml.safe_dump({"vms": vms})).status_code == 201

    conflict = rest.get("/migration/status/twin")

    assert conflict.status_code == 409
    assert sorted(c["vm_moref"] for c in conflict.json()["candidates"]) == morefs
    for moref in morefs:
        assert rest.get(f"/migration/status/{moref}").json()["vm_moref"] == moref
    assert rest.get("/migration/status/nobody").status_code == 404
