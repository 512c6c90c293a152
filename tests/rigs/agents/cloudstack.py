"""A CloudStack agent over gRPC before the lab's CloudStack: what its tests start and ask."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from services.cloudstack_agent.client.http_api import Account, HttpApi
from services.cloudstack_agent.server import SERVICE_NAME
from services.cloudstack_agent.servicer import CloudStackServicer
from services.cloudstack_agent.storage_pools import NfsOptions
from services.kit.channel import connect, stream
from services.kit.server import serving
from tests.rigs.lab.cloudstack import (
    IDS,
    CloudStackLab,
    create_image,
    fresh_uuid,
)
from v2c.cloudstack.v1 import cloudstack_pb2 as pb
from v2c.cloudstack.v1 import cloudstack_pb2_grpc as pb_grpc

ROOT_BYTES = 64 << 20


@contextlib.contextmanager
def fresh_images(server: CloudStackLab) -> Iterator[CloudStackLab]:
    """The lab with three images in its pool; afterwards all that was made of them is gone."""
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
