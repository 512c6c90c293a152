"""The agent over gRPC against a real CloudStack process of the lab."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from services.cloudstack_agent.http_api import Account, HttpApi
from services.cloudstack_agent.server import SERVICE_NAME
from services.cloudstack_agent.servicer import CloudStackServicer
from services.cloudstack_agent.storage_pools import NfsOptions
from services.kit.channel import call, connect, stream
from services.kit.errors import RemoteError, StatusCode
from services.kit.server import serving
from tests.cloudstack_lab import (
    IDS,
    CloudStackLab,
    create_image,
    fresh_uuid,
    running_cloudstack,
)
from v2c.cloudstack.v1 import cloudstack_pb2 as pb
from v2c.cloudstack.v1 import cloudstack_pb2_grpc as pb_grpc

ROOT_BYTES = 64 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudStackLab]:
    with running_cloudstack(tmp_path_factory.mktemp("cloudstack-agent")) as running:
        yield running


@pytest.fixture
def lab(server: CloudStackLab) -> Iterator[CloudStackLab]:
    for name in ("root.qcow2", "data.qcow2", "data2.qcow2"):
        create_image(server.pool / name)
    yield server
    server.control.call("clear_faults")
    server.control.call("restart")
    for vm in server.ok("listVirtualMachines", listall="true").get("virtualmachine", []):
        server.job("unmanageVirtualMachine", id=vm["id"], hostid=IDS["hostid"])
    for volume in server.ok("listVolumes", listall="true").get("volume", []):
        server.job("unmanageVolume", id=volume["id"])
    for path in server.pool.iterdir():
        path.unlink()


@contextlib.asynccontextmanager
async def agent_at(
    endpoint: str, account: Account, directory: Path, timeout_seconds: float = 5
) -> AsyncIterator[pb_grpc.CloudstackServiceAsyncStub]:
    """A served agent on a unix socket, and a stub for it."""
    address = f"unix:{directory}/agent.sock"
    async with HttpApi(endpoint, account, timeout_seconds=timeout_seconds) as api:

        async def register(grpc_server: Any) -> list[str]:
            servicer = CloudStackServicer(api, NfsOptions("", on_ubuntu=True))
            pb_grpc.add_CloudstackServiceServicer_to_server(servicer, grpc_server)
            return [SERVICE_NAME]

        async with serving("cloudstack agent", address, None, register, grace_seconds=1):
            channel = connect(address, None, default_timeout_seconds=20, name="agent")
            async with channel:
                yield pb_grpc.CloudstackServiceStub(channel)


@pytest_asyncio.fixture
async def agent(
    lab: CloudStackLab, tmp_path: Path
) -> AsyncIterator[pb_grpc.CloudstackServiceAsyncStub]:
    account = Account(lab.api_key, lab.secret_key)
    async with agent_at(lab.endpoint, account, tmp_path) as stub:
        yield stub


def vm_request(**changed: Any) -> pb.StartVmImportRequest:
    values: dict[str, Any] = {
        "job_id": fresh_uuid(),
        "display_name": "Web Server (old) 1",
        "zone_id": IDS["zoneid"],
        "cluster_id": IDS["clusterid"],
        "storage_id": IDS["storageid"],
        "disk_path": "root.qcow2",
        "network_id": IDS["networkid"],
        "service_offering_id": IDS["serviceofferingid"],
        "cpu_count": 2,
        "memory_bytes": 1 << 30,
        "boot_type": "UEFI",
        "boot_mode": "SECURE",
        "root_disk_controller": "virtio",
        "nic_adapter": "virtio",
        "name_suffix": "vm-42",
    }
    return pb.StartVmImportRequest(**(values | changed))


async def ended(agent: pb_grpc.CloudstackServiceAsyncStub, job: pb.Job) -> pb.Job:
    """The job's last snapshot."""
    if job.state != pb.JOB_STATE_RUNNING:
        return job
    request = pb.WatchJobRequest(job_id=job.job_id)
    last = job
    async for response in stream(agent.WatchJob(request, timeout=20), peer="agent"):
        last = response.job
    return last


async def succeeded(agent: pb_grpc.CloudstackServiceAsyncStub, job: pb.Job) -> pb.Job:
    last = await ended(agent, job)
    assert last.state == pb.JOB_STATE_SUCCEEDED, last
    return last


async def imported(agent: pb_grpc.CloudstackServiceAsyncStub, **changed: Any) -> pb.Job:
    started = await agent.StartVmImport(vm_request(**changed))
    return await succeeded(agent, started.job)


async def test_the_endpoint_is_named_with_its_version(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    found = await agent.GetEndpoint(pb.GetEndpointRequest())
    assert (found.endpoint, found.version) == (lab.endpoint, "4.22.1.0")


async def test_a_machine_arrives_with_disks_adapters_and_settings(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    vm_id = (await imported(agent)).resource_id
    device_ids = []
    for path in ("data.qcow2", "data2.qcow2"):
        started = await agent.StartVolumeImport(
            pb.StartVolumeImportRequest(
                job_id=fresh_uuid(), storage_id=IDS["storageid"], path=path, name=f"web {path}"
            )
        )
        volume_id = (await succeeded(agent, started.job)).resource_id
        attach = pb.StartVolumeAttachRequest(job_id=fresh_uuid(), volume_id=volume_id, vm_id=vm_id)
        await succeeded(agent, (await agent.StartVolumeAttach(attach)).job)
        found = await agent.GetVolume(pb.GetVolumeRequest(id=volume_id))
        device_ids.append(found.volume.device_id)
    assert device_ids == [2, 4]
    nic = pb.StartNicAddRequest(
        job_id=fresh_uuid(),
        vm_id=vm_id,
        network_id=IDS["networkid2"],
        mac="00:50:56:AA:00:01",
    )
    await succeeded(agent, (await agent.StartNicAdd(nic)).job)
    await agent.UpdateVm(
        pb.UpdateVmRequest(
            vm_id=vm_id,
            os_type_id=IDS["ostypeid_debian"],
            details={"dataDiskController": "virtio"},
        )
    )
    start = pb.StartVmStartRequest(job_id=fresh_uuid(), vm_id=vm_id)
    await succeeded(agent, (await agent.StartVmStart(start)).job)

    vm = (await agent.GetVm(pb.GetVmRequest(name="Web Server (old) 1"))).vm
    assert (vm.id, vm.name, vm.state) == (vm_id, "Web-Server-old-1-vm-42", "Running")
    assert (vm.boot_type, vm.boot_mode, vm.os_type_id) == (
        "UEFI",
        "SECURE",
        IDS["ostypeid_debian"],
    )
    assert [(volume.type, volume.path) for volume in vm.volumes] == [
        ("ROOT", "root.qcow2"),
        ("DATADISK", "data.qcow2"),
        ("DATADISK", "data2.qcow2"),
    ]
    assert vm.volumes[0].size_bytes == ROOT_BYTES
    assert [(entry.network_id, entry.is_default) for entry in vm.nics] == [
        (IDS["networkid"], True),
        (IDS["networkid2"], False),
    ]
    assert vm.nics[1].mac == "00:50:56:aa:00:01"
    assert dict(vm.details) == {
        "cpuNumber": "2",
        "memory": "1024",
        "rootDiskController": "virtio",
        "dataDiskController": "virtio",
        "nicAdapter": "virtio",
        "UEFI": "SECURE",
    }


async def test_an_offering_with_an_open_speed_gets_one(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    job = await imported(agent, service_offering_id=IDS["serviceofferingid_open"])
    vm = (await agent.GetVm(pb.GetVmRequest(id=job.resource_id))).vm
    assert vm.details["cpuSpeed"] == "1000"


async def test_a_fixed_offering_gets_no_sizes(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    job = await imported(agent, service_offering_id=IDS["serviceofferingid_small"])
    vm = (await agent.GetVm(pb.GetVmRequest(id=job.resource_id))).vm
    assert "cpuNumber" not in vm.details


async def test_the_same_job_id_is_the_same_job(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    request = vm_request()
    first = await succeeded(agent, (await agent.StartVmImport(request)).job)
    again = (await agent.StartVmImport(request)).job
    assert (again.state, again.resource_id) == (pb.JOB_STATE_SUCCEEDED, first.resource_id)
    assert again.command == "importVm"
    assert again.create_time.seconds > 0


async def test_another_job_id_finds_the_effect(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    first = await imported(agent)
    submitted = lab.control.call("status")["requests"]["importVm"]
    again = (await agent.StartVmImport(vm_request())).job
    assert (again.existed, again.resource_id) == (True, first.resource_id)
    assert lab.control.call("status")["requests"]["importVm"] == submitted


async def test_a_lost_answer_is_found_again_without_a_second_machine(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    lab.control.call("fault", command="importVm", kind="drop_after")
    job = await imported(agent)
    assert not job.existed
    machines = lab.ok("listVirtualMachines", listall="true")["virtualmachine"]
    assert [machine["id"] for machine in machines] == [job.resource_id]


async def test_a_lost_request_is_sent_again(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    lab.control.call("fault", command="importVm", kind="drop_before")
    assert (await imported(agent)).resource_id


@pytest.mark.parametrize("kind", ["no_placement", "no_free_ip"])
async def test_half_an_import_is_let_go_before_the_next_try(
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


async def test_half_an_import_is_left_alone_while_imports_run(
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
        StatusCode.ALREADY_EXISTS,
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


async def test_adapters_are_added_once_and_conflicts_are_named(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    vm_id = (await imported(agent)).resource_id

    def request(mac: str) -> pb.StartNicAddRequest:
        return pb.StartNicAddRequest(
            job_id=fresh_uuid(), vm_id=vm_id, network_id=IDS["networkid3"], mac=mac
        )

    await succeeded(agent, (await agent.StartNicAdd(request("00:50:56:aa:00:02"))).job)
    assert (await agent.StartNicAdd(request("00:50:56:AA:00:02"))).job.existed
    with pytest.raises(RemoteError) as refused:
        await call(agent.StartNicAdd(request("00:50:56:aa:00:03")), peer="agent")
    assert refused.value.reason == "NIC_CONFLICT"


async def test_rollback_lets_go_and_keeps_every_file(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    vm_id = (await imported(agent)).resource_id
    start = pb.StartVmStartRequest(job_id=fresh_uuid(), vm_id=vm_id)
    await succeeded(agent, (await agent.StartVmStart(start)).job)
    unmanage = pb.StartVmUnmanageRequest(job_id=fresh_uuid(), vm_id=vm_id)
    with pytest.raises(RemoteError) as refused:
        await call(agent.StartVmUnmanage(unmanage), peer="agent")
    assert refused.value.reason == "VM_NOT_STOPPED"
    stop = pb.StartVmStopRequest(job_id=fresh_uuid(), vm_id=vm_id, forced=True)
    await succeeded(agent, (await agent.StartVmStop(stop)).job)
    gone = await succeeded(agent, (await agent.StartVmUnmanage(unmanage)).job)
    assert gone.resource_id == vm_id
    with pytest.raises(RemoteError) as missing:
        await call(agent.GetVm(pb.GetVmRequest(id=vm_id)), peer="agent")
    assert (missing.value.code, missing.value.reason) == (StatusCode.NOT_FOUND, "VM_NOT_FOUND")
    again = pb.StartVmUnmanageRequest(job_id=fresh_uuid(), vm_id=vm_id)
    assert (await agent.StartVmUnmanage(again)).job.existed
    assert (lab.pool / "root.qcow2").exists()


async def test_what_never_ran_on_a_zone_wide_pool_is_let_go(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    image = create_image(lab.directory / "pool-nfs" / "root.qcow2")
    vm_id = (await imported(agent, storage_id=IDS["storageid_nfs"])).resource_id
    request = pb.StartVmUnmanageRequest(job_id=fresh_uuid(), vm_id=vm_id)
    await succeeded(agent, (await agent.StartVmUnmanage(request)).job)
    assert image.exists()


async def test_a_destroyed_machine_still_has_its_disk(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    vm_id = (await imported(agent)).resource_id
    lab.job("destroyVirtualMachine", id=vm_id)
    with pytest.raises(RemoteError) as refused:
        await call(agent.StartVmImport(vm_request()), peer="agent")
    assert refused.value.reason == "DISK_IN_USE"
    assert "unmanage" in refused.value.hint
    with pytest.raises(RemoteError) as missing:
        await call(agent.GetVm(pb.GetVmRequest(name="Web Server (old) 1")), peer="agent")
    assert missing.value.reason == "VM_NOT_FOUND"
    lab.job("expungeVirtualMachine", id=vm_id)


async def test_a_data_volume_is_let_go_with_its_file_kept(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    started = await agent.StartVolumeImport(
        pb.StartVolumeImportRequest(
            job_id=fresh_uuid(), storage_id=IDS["storageid"], path="data.qcow2", name="data"
        )
    )
    volume_id = (await succeeded(agent, started.job)).resource_id
    for existed in (False, True):
        request = pb.StartVolumeUnmanageRequest(job_id=fresh_uuid(), volume_id=volume_id)
        job = await succeeded(agent, (await agent.StartVolumeUnmanage(request)).job)
        assert job.existed is existed
    assert (lab.pool / "data.qcow2").exists()
    path = pb.GetVolumeRequest(storage_id=IDS["storageid"], path="data.qcow2")
    with pytest.raises(RemoteError) as missing:
        await call(agent.GetVolume(path), peer="agent")
    assert missing.value.reason == "VOLUME_NOT_FOUND"


async def test_details_are_changed_while_stopped_only(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    vm_id = (await imported(agent)).resource_id
    start = pb.StartVmStartRequest(job_id=fresh_uuid(), vm_id=vm_id)
    await succeeded(agent, (await agent.StartVmStart(start)).job)
    update = pb.UpdateVmRequest(vm_id=vm_id, details={"nicAdapter": "e1000"})
    with pytest.raises(RemoteError) as refused:
        await call(agent.UpdateVm(update), peer="agent")
    assert refused.value.reason == "VM_NOT_STOPPED"
    same = await agent.UpdateVm(pb.UpdateVmRequest(vm_id=vm_id, display_name="Web 2"))
    assert same.vm.display_name == "Web 2"


async def test_placements_are_listed_and_filtered(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    async def names(kind: pb.PlacementKind.ValueType, **more: str) -> list[str]:
        request = pb.ListPlacementsRequest(kind=kind, **more)
        return [entry.name for entry in (await agent.ListPlacements(request)).placements]

    assert await names(pb.PLACEMENT_KIND_ZONE) == ["lab-zone"]
    assert await names(pb.PLACEMENT_KIND_CLUSTER, zone_id=IDS["zoneid"]) == ["lab-cluster"]
    assert await names(pb.PLACEMENT_KIND_NETWORK) == ["lab-app", "lab-l2", "lab-shared"]
    assert await names(pb.PLACEMENT_KIND_STORAGE_POOL, filter="PRIMARY") == [
        "lab-primary",
        "lab-primary-2",
    ]
    assert "Debian GNU/Linux 12 (64-bit)" in await names(pb.PLACEMENT_KIND_OS_TYPE)
    assert "lab-disk-20g" in await names(pb.PLACEMENT_KIND_DISK_OFFERING)
    request = pb.ListPlacementsRequest(
        kind=pb.PLACEMENT_KIND_SERVICE_OFFERING, filter="constrained"
    )
    (offering,) = (await agent.ListPlacements(request)).placements
    assert offering.id == IDS["serviceofferingid_constrained"]
    assert offering.attributes["serviceofferingdetails.maxmemory"] == "8192"
    with pytest.raises(RemoteError) as refused:
        await call(agent.ListPlacements(pb.ListPlacementsRequest()), peer="agent")
    assert refused.value.reason == "REQUEST_INVALID"


async def test_pools_say_what_to_mount(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    async def resolved(pool_id: str) -> pb.StoragePool:
        request = pb.ResolveStoragePoolRequest(id=pool_id)
        return (await agent.ResolveStoragePool(request)).pool

    pool = await resolved(IDS["storageid"])
    assert (pool.type, pool.source, pool.path) == (
        "SharedMountPoint",
        str(lab.pool),
        str(lab.pool),
    )
    nfs = await resolved(IDS["storageid_nfs"])
    assert nfs.source == "127.0.0.1:/export/primary"
    assert nfs.path == f"/mnt/{IDS['storageid_nfs']}"
    assert "vers=3" in nfs.options
    local = await resolved(IDS["storageid_local"])
    assert (local.import_source, local.host_id) == ("local", IDS["hostid"])
    hidden = {"table": "storagepool", "id": IDS["storageid"]}
    lab.control.call("set", **hidden, values={"hidden_by_id": True})
    assert (await resolved(IDS["storageid"])).name == "lab-primary"
    lab.control.call("set", **hidden, values={"hidden_by_id": False})
    for pool_id, reason in (
        (IDS["storageid_rbd"], "STORAGE_POOL_UNSUPPORTED"),
        (fresh_uuid(), "STORAGE_POOL_NOT_FOUND"),
    ):
        with pytest.raises(RemoteError) as refused:
            await call(
                agent.ResolveStoragePool(pb.ResolveStoragePoolRequest(id=pool_id)), peer="agent"
            )
        assert refused.value.reason == reason


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


async def test_a_slow_server_is_told_apart_and_asked_once(
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


async def test_reading_goes_on_over_a_broken_connection(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    lab.control.call("fault", command="listCapabilities", kind="drop_before")
    lab.control.call("fault", command="listCapabilities", kind="http", code=502)
    assert (await agent.GetEndpoint(pb.GetEndpointRequest())).version


async def test_a_wrong_secret_and_a_dead_server_are_told_apart(
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
    assert failed.failure.reason == "DISK_INVALID"
    assert failed.failure.metadata["errorcode"] == "530"
    assert (await agent.GetJob(pb.GetJobRequest(job_id=failed.job_id))).job == failed
    with pytest.raises(RemoteError) as missing:
        await call(agent.GetJob(pb.GetJobRequest(job_id=fresh_uuid())), peer="agent")
    assert missing.value.reason == "JOB_NOT_FOUND"
