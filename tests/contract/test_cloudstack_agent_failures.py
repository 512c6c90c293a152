"""The agent when CloudStack refuses, loses a job, is slow or down, and with invalid requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from services.cloudstack_agent.client.http_api import Account
from services.kit.channel import call
from services.kit.errors import RemoteError
from services.kit.failure import Code
from tests.rigs.agents.cloudstack import (
    agent_at,
    ended,
    fresh_images,
    imported,
    succeeded,
    vm_request,
)
from tests.rigs.lab.cloudstack import (
    IDS,
    CloudStackLab,
    fresh_uuid,
    running_cloudstack,
)
from v2c.cloudstack.v1 import cloudstack_pb2 as pb
from v2c.cloudstack.v1 import cloudstack_pb2_grpc as pb_grpc


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudStackLab]:
    with running_cloudstack(tmp_path_factory.mktemp("cloudstack-agent")) as running:
        yield running


@pytest.fixture
def lab(server: CloudStackLab) -> Iterator[CloudStackLab]:
    with fresh_images(server) as fresh:
        yield fresh


@pytest_asyncio.fixture
async def agent(
    lab: CloudStackLab, tmp_path: Path
) -> AsyncIterator[pb_grpc.CloudstackServiceAsyncStub]:
    account = Account(lab.api_key, lab.secret_key)
    async with agent_at(lab.endpoint, account, tmp_path) as stub:
        yield stub


async def test_a_call_repeated_after_a_lost_answer_makes_no_second_machine(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    lab.control.call("fault", command="importVm", kind="drop_after")
    job = await imported(agent)
    assert not job.existed
    machines = lab.ok("listVirtualMachines", listall="true")["virtualmachine"]
    assert [machine["id"] for machine in machines] == [job.resource_id]


async def test_a_request_that_was_lost_is_sent_again(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    lab.control.call("fault", command="importVm", kind="drop_before")
    assert (await imported(agent)).resource_id


@pytest.mark.parametrize("kind", ["no_placement", "no_free_ip"])
async def test_a_half_imported_machine_is_removed_before_the_next_attempt(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab, kind: str
) -> None:
    lab.control.call("fault", command="importVm", kind=kind)
    failed = await ended(agent, (await agent.StartVmImport(vm_request())).job)
    assert failed.state == pb.JOB_STATE_FAILED
    assert failed.failure.reason == "CLOUDSTACK_CAPACITY_EXHAUSTED"
    job = await imported(agent)
    machines = lab.ok("listVirtualMachines", listall="true")["virtualmachine"]
    assert [machine["id"] for machine in machines] == [job.resource_id]
    assert len(machines[0]["nic"]) == 1
    assert (lab.pool / "root.qcow2").exists()


async def test_a_half_imported_machine_is_not_removed_while_imports_run(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    lab.control.call("fault", command="importVm", kind="no_placement")
    await ended(agent, (await agent.StartVmImport(vm_request())).job)
    lab.control.call("fault", command="importVm", kind="job_hang")
    await agent.StartVmImport(vm_request(disk_path="data.qcow2", display_name="other"))
    with pytest.raises(RemoteError) as refused:
        await call(agent.StartVmImport(vm_request()), peer="agent")
    assert refused.value.reason == "IMPORT_UNSETTLED"
    assert refused.value.retryable
    lab.control.call("restart")  # fails the other import
    assert (await imported(agent)).resource_id


async def test_another_machines_root_disk_is_in_use(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    await imported(agent)
    with pytest.raises(RemoteError) as refused:
        await call(agent.StartVmImport(vm_request(display_name="other")), peer="agent")
    assert (refused.value.code, refused.value.reason) == (
        Code.ALREADY_EXISTS,
        "DISK_IN_USE",
    )


async def test_a_restart_fails_the_job_and_the_next_one_works(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    lab.control.call("fault", command="importVolume", kind="job_hang")
    request = {"storage_id": IDS["storageid"], "path": "data.qcow2", "name": "data"}
    started = await agent.StartVolumeImport(
        pb.StartVolumeImportRequest(job_id=fresh_uuid(), **request)
    )
    assert started.job.state == pb.JOB_STATE_RUNNING
    lab.control.call("restart")
    failed = await ended(agent, started.job)
    assert (failed.failure.reason, failed.failure.retryable) == ("CLOUDSTACK_RESTARTED", True)
    second = await agent.StartVolumeImport(
        pb.StartVolumeImportRequest(job_id=fresh_uuid(), **request)
    )
    volume_id = (await succeeded(agent, second.job)).resource_id
    third = await agent.StartVolumeImport(
        pb.StartVolumeImportRequest(job_id=fresh_uuid(), **request)
    )
    assert (third.job.existed, third.job.resource_id) == (True, volume_id)


@pytest.mark.parametrize(
    ("fault", "reason", "retryable"),
    [
        ({"kind": "http", "code": 503}, "CLOUDSTACK_UNAVAILABLE", True),
        ({"kind": "http", "code": 200}, "CLOUDSTACK_ANSWER_INVALID", False),
        ({"kind": "error", "code": 401}, "CLOUDSTACK_LOGIN_FAILED", False),
        ({"kind": "error", "code": 531}, "CLOUDSTACK_PERMISSION_DENIED", False),
        ({"kind": "error", "code": 532}, "CLOUDSTACK_LIMIT_REACHED", False),
        ({"kind": "error", "code": 530}, "CLOUDSTACK_FAILED", False),
        ({"kind": "error", "code": 536}, "CLOUDSTACK_FAILED", True),
        ({"kind": "drop_before", "times": None}, "CLOUDSTACK_ANSWER_LOST", True),
    ],
)
async def test_failures_at_submit_have_reasons(
    agent: pb_grpc.CloudstackServiceAsyncStub,
    lab: CloudStackLab,
    fault: dict[str, Any],
    reason: str,
    retryable: bool,
) -> None:
    lab.control.call("fault", command="importVm", **fault)
    with pytest.raises(RemoteError) as refused:
        await call(agent.StartVmImport(vm_request()), peer="agent")
    assert (refused.value.reason, refused.value.retryable) == (reason, retryable)


async def test_a_slow_server_has_its_own_reason_and_is_asked_once(
    lab: CloudStackLab, tmp_path: Path
) -> None:
    account = Account(lab.api_key, lab.secret_key)
    asked = lab.control.call("status")["requests"].get("listCapabilities", 0)
    async with agent_at(lab.endpoint, account, tmp_path, timeout_seconds=0.2) as stub:
        lab.control.call("fault", command="listCapabilities", kind="delay", seconds=0.5)
        with pytest.raises(RemoteError) as refused:
            await call(stub.GetEndpoint(pb.GetEndpointRequest()), peer="agent")
        assert refused.value.reason == "CLOUDSTACK_TIMEOUT"
        assert lab.control.call("status")["requests"]["listCapabilities"] == asked + 1
        # A submit that arrives twice, the first time late, is one job.
        lab.control.call("fault", command="importVm", kind="delay", seconds=0.5)
        job = await imported(stub)
        await asyncio.sleep(0.6)
    machines = lab.ok("listVirtualMachines", listall="true")["virtualmachine"]
    assert [machine["id"] for machine in machines] == [job.resource_id]


async def test_a_read_is_repeated_after_a_broken_connection(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    lab.control.call("fault", command="listCapabilities", kind="drop_before")
    lab.control.call("fault", command="listCapabilities", kind="http", code=502)
    assert (await agent.GetEndpoint(pb.GetEndpointRequest())).version


async def test_a_wrong_secret_and_a_dead_server_have_different_reasons(
    lab: CloudStackLab, tmp_path: Path
) -> None:
    for endpoint, reason in (
        (lab.endpoint, "CLOUDSTACK_LOGIN_FAILED"),
        ("http://127.0.0.1:9/client/api", "CLOUDSTACK_UNREACHABLE"),
        (lab.endpoint.replace("/client/api", "/elsewhere"), "CLOUDSTACK_ANSWER_INVALID"),
    ):
        account = Account(lab.api_key, "not the secret")
        async with agent_at(endpoint, account, tmp_path) as stub:
            with pytest.raises(RemoteError) as refused:
                await call(stub.GetEndpoint(pb.GetEndpointRequest()), peer="agent")
            assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"job_id": "not-a-uuid"}, "REQUEST_INVALID"),
        ({"job_id": fresh_uuid().upper()}, "REQUEST_INVALID"),
        ({"disk_path": "sub/root.qcow2"}, "REQUEST_INVALID"),
        ({"zone_id": ""}, "REQUEST_INVALID"),
        ({"memory_bytes": 0}, "REQUEST_INVALID"),
        ({"boot_type": "uefi"}, "REQUEST_INVALID"),
        ({"zone_id": fresh_uuid()}, "CLOUDSTACK_PARAMETER_REFUSED"),
        ({"service_offering_id": fresh_uuid()}, "CLOUDSTACK_PARAMETER_REFUSED"),
    ],
)
async def test_bad_requests_are_refused_before_a_job(
    agent: pb_grpc.CloudstackServiceAsyncStub,
    lab: CloudStackLab,
    changed: dict[str, Any],
    reason: str,
) -> None:
    with pytest.raises(RemoteError) as refused:
        await call(agent.StartVmImport(vm_request(**changed)), peer="agent")
    assert refused.value.reason == reason
    assert lab.ok("listVirtualMachines", listall="true") == {}


async def test_a_missing_image_fails_the_job_with_a_reason(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    started = await agent.StartVmImport(vm_request(disk_path="absent.qcow2"))
    failed = await ended(agent, started.job)
    assert (failed.failure.reason, failed.failure.code) == ("DISK_INVALID", "FAILED_PRECONDITION")
    assert failed.failure.metadata["errorcode"] == "530"
    assert (await agent.GetJob(pb.GetJobRequest(job_id=failed.job_id))).job == failed
    with pytest.raises(RemoteError) as missing:
        await call(agent.GetJob(pb.GetJobRequest(job_id=fresh_uuid())), peer="agent")
    assert missing.value.reason == "JOB_NOT_FOUND"
