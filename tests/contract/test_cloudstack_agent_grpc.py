"""The agent over gRPC against a real CloudStack process of the lab."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.cloudstack_agent.client.http_api import Account
from services.kit.channel import call
from services.kit.errors import RemoteError
from services.kit.failure import Code
from tests.rigs.agents.cloudstack import (
    ROOT_BYTES,
    agent_at,
    fresh_images,
    imported,
    succeeded,
    vm_request,
)
from tests.rigs.lab.cloudstack import (
    IDS,
    CloudStackLab,
    create_image,
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


async def test_an_offering_without_a_speed_is_given_one(
    agent: pb_grpc.CloudstackServiceAsyncStub, lab: CloudStackLab
) -> None:
    job = await imported(agent, service_offering_id=IDS["serviceofferingid_open"])
    vm = (await agent.GetVm(pb.GetVmRequest(id=job.resource_id))).vm
    assert vm.details["cpuSpeed"] == "1000"


async def test_no_sizes_are_sent_for_a_fixed_offering(
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


async def test_rollback_unmanages_and_keeps_every_file(
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
    assert (missing.value.code, missing.value.reason) == (Code.NOT_FOUND, "VM_NOT_FOUND")
    again = pb.StartVmUnmanageRequest(job_id=fresh_uuid(), vm_id=vm_id)
    assert (await agent.StartVmUnmanage(again)).job.existed
    assert (lab.pool / "root.qcow2").exists()


async def test_a_machine_that_never_ran_on_a_zone_wide_pool_is_unmanaged(
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


async def test_a_data_volume_is_unmanaged_with_its_file_kept(
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


async def test_pools_have_a_source_and_mount_options(
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
