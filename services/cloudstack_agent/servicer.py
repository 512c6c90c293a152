"""CloudstackService: translates between the proto's messages and the domain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, TypeAlias

import grpc

from services.cloudstack_agent import jobs, vms, volumes
from services.cloudstack_agent.client.api import CloudStackApi
from services.cloudstack_agent.connection import check_connection
from services.cloudstack_agent.errors import RequestInvalid, VolumeNotFound
from services.cloudstack_agent.inventory import (
    Nic,
    Vm,
    Volume,
    find_volume_at,
    vm_by_id,
    vm_by_name,
    volume_by_id,
)
from services.cloudstack_agent.placement import Placement, PlacementKind, list_placements
from services.cloudstack_agent.storage_pools import (
    NfsOptions,
    StoragePool,
    resolve_storage_pool,
)
from services.cloudstack_agent.vm_import import VmImport, start_vm_import
from v2c.cloudstack.v1 import cloudstack_pb2 as pb
from v2c.cloudstack.v1 import cloudstack_pb2_grpc as pb_grpc

# Quoted, because ServicerContext is generic in the type stubs only.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_KINDS: Final = {
    pb.PLACEMENT_KIND_ZONE: PlacementKind.ZONE,
    pb.PLACEMENT_KIND_CLUSTER: PlacementKind.CLUSTER,
    pb.PLACEMENT_KIND_STORAGE_POOL: PlacementKind.STORAGE_POOL,
    pb.PLACEMENT_KIND_NETWORK: PlacementKind.NETWORK,
    pb.PLACEMENT_KIND_DISK_OFFERING: PlacementKind.DISK_OFFERING,
    pb.PLACEMENT_KIND_SERVICE_OFFERING: PlacementKind.SERVICE_OFFERING,
    pb.PLACEMENT_KIND_OS_TYPE: PlacementKind.OS_TYPE,
}
_STATES: Final = {
    jobs.JobState.RUNNING: pb.JOB_STATE_RUNNING,
    jobs.JobState.SUCCEEDED: pb.JOB_STATE_SUCCEEDED,
    jobs.JobState.FAILED: pb.JOB_STATE_FAILED,
}


class CloudStackServicer(pb_grpc.CloudstackServiceServicer):
    """Serves one CloudStack. The kit turns errors of the domain into gRPC statuses."""

    def __init__(self, api: CloudStackApi, nfs: NfsOptions) -> None:
        self._api = api
        self._nfs = nfs

    async def GetEndpoint(
        self, request: pb.GetEndpointRequest, context: Context
    ) -> pb.GetEndpointResponse:
        """The methods are described in cloudstack.proto."""
        found = await check_connection(self._api)
        return pb.GetEndpointResponse(endpoint=found.endpoint, version=found.version)

    async def ListPlacements(
        self, request: pb.ListPlacementsRequest, context: Context
    ) -> pb.ListPlacementsResponse:
        kind = _KINDS.get(request.kind)
        if kind is None:
            raise RequestInvalid(message="kind is required")
        found = await list_placements(
            self._api, kind, zone_id=request.zone_id, name_part=request.filter
        )
        return pb.ListPlacementsResponse(placements=[_placement(entry) for entry in found])

    async def ResolveStoragePool(
        self, request: pb.ResolveStoragePoolRequest, context: Context
    ) -> pb.ResolveStoragePoolResponse:
        pool = await resolve_storage_pool(self._api, request.id, self._nfs)
        return pb.ResolveStoragePoolResponse(pool=_pool(pool))

    async def GetVm(self, request: pb.GetVmRequest, context: Context) -> pb.GetVmResponse:
        if request.id:
            vm = await vm_by_id(self._api, request.id)
        elif request.name:
            vm = await vm_by_name(self._api, request.name)
        else:
            raise RequestInvalid(message="a virtual machine is named by id or by name")
        return pb.GetVmResponse(vm=_vm(vm))

    async def GetVolume(
        self, request: pb.GetVolumeRequest, context: Context
    ) -> pb.GetVolumeResponse:
        if request.id:
            volume = await volume_by_id(self._api, request.id)
        else:
            found = await find_volume_at(self._api, request.storage_id, request.path)
            if found is None:
                raise VolumeNotFound(
                    message=f"CloudStack has no volume {request.path} in that storage pool",
                    metadata={"storage_pool": request.storage_id, "path": request.path},
                )
            volume = found
        return pb.GetVolumeResponse(volume=_volume(volume))

    async def StartVmImport(
        self, request: pb.StartVmImportRequest, context: Context
    ) -> pb.StartVmImportResponse:
        wanted = VmImport(
            display_name=request.display_name,
            zone_id=request.zone_id,
            cluster_id=request.cluster_id,
            storage_id=request.storage_id,
            disk_path=request.disk_path,
            network_id=request.network_id,
            service_offering_id=request.service_offering_id,
            cpu_count=request.cpu_count,
            memory_bytes=request.memory_bytes,
            boot_type=request.boot_type,
            boot_mode=request.boot_mode,
            root_disk_controller=request.root_disk_controller,
            data_disk_controller=request.data_disk_controller,
            nic_adapter=request.nic_adapter,
            name_suffix=request.name_suffix,
        )
        job = await start_vm_import(self._api, request.job_id, wanted, sleep=asyncio.sleep)
        return pb.StartVmImportResponse(job=_job(job))

    async def StartVolumeImport(
        self, request: pb.StartVolumeImportRequest, context: Context
    ) -> pb.StartVolumeImportResponse:
        job = await volumes.start_volume_import(
            self._api,
            request.job_id,
            storage_id=request.storage_id,
            path=request.path,
            name=request.name,
            disk_offering_id=request.disk_offering_id,
        )
        return pb.StartVolumeImportResponse(job=_job(job))

    async def StartVolumeAttach(
        self, request: pb.StartVolumeAttachRequest, context: Context
    ) -> pb.StartVolumeAttachResponse:
        job = await volumes.start_volume_attach(
            self._api, request.job_id, volume_id=request.volume_id, vm_id=request.vm_id
        )
        return pb.StartVolumeAttachResponse(job=_job(job))

    async def StartNicAdd(
        self, request: pb.StartNicAddRequest, context: Context
    ) -> pb.StartNicAddResponse:
        job = await vms.start_nic_add(
            self._api,
            request.job_id,
            vm_id=request.vm_id,
            network_id=request.network_id,
            mac=request.mac,
        )
        return pb.StartNicAddResponse(job=_job(job))

    async def StartVmStart(
        self, request: pb.StartVmStartRequest, context: Context
    ) -> pb.StartVmStartResponse:
        job = await vms.start_vm_start(self._api, request.job_id, vm_id=request.vm_id)
        return pb.StartVmStartResponse(job=_job(job))

    async def StartVmStop(
        self, request: pb.StartVmStopRequest, context: Context
    ) -> pb.StartVmStopResponse:
        job = await vms.start_vm_stop(
            self._api, request.job_id, vm_id=request.vm_id, forced=request.forced
        )
        return pb.StartVmStopResponse(job=_job(job))

    async def StartVmUnmanage(
        self, request: pb.StartVmUnmanageRequest, context: Context
    ) -> pb.StartVmUnmanageResponse:
        job = await vms.start_vm_unmanage(self._api, request.job_id, vm_id=request.vm_id)
        return pb.StartVmUnmanageResponse(job=_job(job))

    async def StartVolumeUnmanage(
        self, request: pb.StartVolumeUnmanageRequest, context: Context
    ) -> pb.StartVolumeUnmanageResponse:
        job = await volumes.start_volume_unmanage(
            self._api, request.job_id, volume_id=request.volume_id
        )
        return pb.StartVolumeUnmanageResponse(job=_job(job))

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:
        return pb.GetJobResponse(job=_job(await jobs.get_job(self._api, request.job_id)))

    async def WatchJob(
        self, request: pb.WatchJobRequest, context: Context
    ) -> AsyncIterator[pb.WatchJobResponse]:
        async for job in jobs.watch(self._api, request.job_id, asyncio.sleep):
            yield pb.WatchJobResponse(job=_job(job))

    async def UpdateVm(self, request: pb.UpdateVmRequest, context: Context) -> pb.UpdateVmResponse:
        vm = await vms.update_vm(
            self._api,
            request.vm_id,
            os_type_id=request.os_type_id,
            display_name=request.display_name,
            details=dict(request.details),
        )
        return pb.UpdateVmResponse(vm=_vm(vm))


def _job(job: jobs.Job) -> pb.Job:
    message = pb.Job(
        job_id=job.job_id,
        state=_STATES[job.state],
        resource_id=job.resource_id,
        command=job.command,
        existed=job.existed,
    )
    if job.failure is not None:
        message.failure.CopyFrom(
            pb.Failure(
                reason=job.failure.reason,
                message=job.failure.message,
                hint=job.failure.hint,
                retryable=job.failure.retryable,
                metadata=job.failure.metadata,
                code=job.failure.code.name,
            )
        )
    if job.create_time is not None:
        message.create_time.FromDatetime(job.create_time)
    return message


def _placement(entry: Placement) -> pb.Placement:
    return pb.Placement(
        id=entry.id,
        name=entry.name,
        zone_id=entry.zone_id,
        cluster_id=entry.cluster_id,
        attributes=entry.attributes,
    )


def _pool(pool: StoragePool) -> pb.StoragePool:
    return pb.StoragePool(
        id=pool.id,
        name=pool.name,
        type=pool.type,
        source=pool.source,
        path=pool.path,
        options=pool.options,
        scope=pool.scope,
        zone_id=pool.zone_id,
        cluster_id=pool.cluster_id,
        import_source=pool.import_source,
        host_id=pool.host_id,
    )


def _vm(vm: Vm) -> pb.Vm:
    return pb.Vm(
        id=vm.id,
        name=vm.name,
        display_name=vm.display_name,
        state=vm.state,
        volumes=[_volume(volume) for volume in vm.volumes],
        nics=[_nic(nic) for nic in vm.nics],
        details=vm.details,
        os_type_id=vm.os_type_id,
        service_offering_id=vm.service_offering_id,
        boot_type=vm.boot_type,
        boot_mode=vm.boot_mode,
    )


def _volume(volume: Volume) -> pb.Volume:
    return pb.Volume(
        id=volume.id,
        name=volume.name,
        type=volume.type,
        path=volume.path,
        storage_id=volume.storage_id,
        size_bytes=volume.size_bytes,
        device_id=volume.device_id,
        vm_id=volume.vm_id,
        state=volume.state,
        disk_offering_id=volume.disk_offering_id,
    )


def _nic(nic: Nic) -> pb.Nic:
    return pb.Nic(
        id=nic.id,
        network_id=nic.network_id,
        mac=nic.mac,
        ip_address=nic.ip_address,
        is_default=nic.is_default,
    )
