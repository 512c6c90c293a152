"""The lab's CloudStack over HTTP: signatures, parameters, paging, jobs, restarts."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rigs.lab.cloudstack import (
    IDS,
    CloudStackLab,
    create_image,
    fresh_uuid,
    reference_signature,
    running_cloudstack,
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudStackLab]:
    with running_cloudstack(tmp_path_factory.mktemp("cloudstack-api")) as running:
        yield running


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_signed_request_is_answered(lab: CloudStackLab, method: str) -> None:
    reply = lab.send(lab.sign("listZones", {"name": "lab-zone"}), method=method)
    assert (reply.status, reply.envelope) == (200, "listzonesresponse")
    assert [zone["id"] for zone in reply.body["zone"]] == [IDS["zoneid"]]


def test_the_form_without_expiry_is_accepted(lab: CloudStackLab) -> None:
    request = {"command": "listZones", "apiKey": lab.api_key, "response": "json"}
    request["signature"] = reference_signature(request, lab.secret_key)
    assert lab.send(request).status == 200


@pytest.mark.parametrize("text", ["a~b", "x*y", "sp ace", "ümlaut+&=/"])
def test_values_are_signed_as_java_encodes_them(lab: CloudStackLab, text: str) -> None:
    assert lab.call("listZones", keyword=text).status == 200


@pytest.mark.parametrize("change", ["signature", "apiKey", "expired", "unsigned expiry"])
def test_a_wrong_signature_is_401_under_the_commands_envelope(
    lab: CloudStackLab, change: str
) -> None:
    request = lab.sign("listZones", {}, -5 if change == "expired" else 600)
    if change == "unsigned expiry":
        request["expires"] = request["expires"].replace("20", "21", 1)
    elif change != "expired":
        first = request[change][0]
        request[change] = ("y" if first == "x" else "x") + request[change][1:]
    reply = lab.send(request)
    assert (reply.status, reply.envelope) == (401, "listzonesresponse")
    assert reply.body["errorcode"] == 401


def test_an_unknown_command_uses_its_own_envelope(lab: CloudStackLab) -> None:
    reply = lab.call("importEverything")
    assert (reply.status, reply.envelope) == (432, "errorresponse")


@pytest.mark.parametrize(
    ("command", "parameters", "text"),
    [
        ("listNics", {}, "missing parameter virtualmachineid"),
        ("listZones", {"pagesize": "many"}, "Invalid parameter pagesize value=many"),
        ("listZones", {"pagesize": "501"}, "max allowed page size value: 500"),
        ("listZones", {"colour": "blue"}, "unknown parameter colour"),
        ("listZones", {"keyword": "k" * 256}, "max allowed length 255 for param: keyword"),
        ("listZones", {"available": "yes"}, "Invalid parameter available value=yes"),
        ("listNetworks", {"zoneid": "nowhere"}, "Invalid parameter zoneid value=nowhere"),
        ("updateVirtualMachine", {"id": "x", "details": "y"}, "details[0].key"),
    ],
)
def test_parameters_are_checked(
    lab: CloudStackLab, command: str, parameters: dict[str, str], text: str
) -> None:
    reply = lab.call(command, **parameters)
    assert (reply.status, reply.body["errorcode"]) == (431, 431)
    assert text in reply.body["errortext"]


def test_lists_are_paged_and_an_empty_list_is_an_empty_object(lab: CloudStackLab) -> None:
    first = lab.ok("listNetworks", page="1", pagesize="2")
    second = lab.ok("listNetworks", page="2", pagesize="2")
    assert (first["count"], len(first["network"]), len(second["network"])) == (3, 2, 1)
    assert lab.ok("listNetworks", page="3", pagesize="2") == {}
    assert lab.ok("listVirtualMachines", listall="true") == {}


def test_a_custom_job_id_is_used_once(lab: CloudStackLab) -> None:
    job_id = fresh_uuid()
    parameters = {"id": IDS["zoneid"], "customjobid": job_id}
    assert lab.call("startVirtualMachine", **parameters).status == 431  # no such VM: no job
    create_image(lab.pool / "once.qcow2")
    volume = {"storageid": IDS["storageid"], "path": "once.qcow2", "customjobid": job_id}
    assert lab.ok("importVolume", **volume)["jobid"] == job_id
    assert lab.wait_job(job_id)["jobstatus"] == 1
    again = lab.call("importVolume", **volume)
    assert (again.status, again.body["errorcode"]) == (431, 431)
    upper = lab.call("importVolume", **{**volume, "customjobid": fresh_uuid().upper()})
    assert upper.status == 431


def test_an_unknown_job_is_refused(lab: CloudStackLab) -> None:
    assert lab.call("queryAsyncJobResult", jobid=fresh_uuid()).status == 431


def test_a_job_is_forgotten_after_a_day(lab: CloudStackLab) -> None:
    create_image(lab.pool / "old.qcow2")
    volume = {"storageid": IDS["storageid"], "path": "old.qcow2"}
    job_id = lab.job("importVolume", **volume)["jobid"]
    values = {"completed": "2026-01-01T00:00:00+0000"}
    lab.control.call("set", table="job", id=job_id, values=values)
    assert lab.job("importVolume", **volume)["jobstatus"] == 2  # already managed
    assert lab.call("queryAsyncJobResult", jobid=job_id).status == 431


def test_faults_affect_the_requested_number_of_calls(lab: CloudStackLab) -> None:
    lab.control.call("fault", command="listZones", kind="error", code=530, text="boom", times=2)
    assert [lab.call("listZones").status for _ in range(3)] == [530, 530, 200]
    lab.control.call("fault", command="*", kind="drop_before", skip=1)
    assert lab.call("listZones").status == 200
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        lab.call("listZones")
    lab.control.call("fault", command="listZones", kind="error", times=None)
    lab.control.call("clear_faults")
    assert lab.call("listZones").status == 200
    assert lab.control.call("faults")["faults"] == []


def test_state_survives_a_restart_and_running_jobs_fail(tmp_path: Path) -> None:
    with running_cloudstack(tmp_path) as lab:
        create_image(lab.pool / "root.qcow2")
        create_image(lab.pool / "data.qcow2")
        vm = lab.import_vm()["jobresult"]["virtualmachine"]
        lab.control.call("fault", command="importVolume", kind="job_hang")
        hanging = lab.ok("importVolume", storageid=IDS["storageid"], path="data.qcow2")["jobid"]
        keys = (lab.api_key, lab.secret_key)
    with running_cloudstack(tmp_path) as lab:
        assert (lab.api_key, lab.secret_key) == keys
        found = lab.ok("listVirtualMachines", id=vm["id"])["virtualmachine"]
        assert [row["name"] for row in found] == ["web-1"]
        job = lab.ok("queryAsyncJobResult", jobid=hanging)
        assert (job["jobstatus"], job["jobresult"]["errorcode"]) == (2, 530)
        assert "management server restart" in job["jobresult"]["errortext"]
