"""The target over v2c.cloudstack.v1."""

from services.orchestrator.adapters.caller import Caller, member, reported
from services.orchestrator.ports.cloudstack import (
    Job,
    JobState,
    Placement,
    PlacementKind,
    TargetVm,
    VmImport,
)
from services.orchestrator.ports.disk import Pool
from v2c.cloudstack.v1 import cloudstack_pb2 as pb
from v2c.cloudstack.v1 import cloudstack_pb2_grpc as rpc

__all__ = ["CloudstackAgent"]


class CloudstackAgent:
    """Implements `ports.CloudstackPort`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._stub = rpc.CloudstackServiceStub(caller.channel)

    def check(self) -> str:
        """CloudStack's version, after a signed call."""
        return self._caller.quick(self._stub.GetEndpoint, pb.GetEndpointRequest()).version

    def placements(self, kind: PlacementKind, zone_id: str, text: str) -> tuple[Placement, ...]:
        """The placements of one kind: zones, clusters, pools, networks, offerings or OS types."""
        request = pb.ListPlacementsRequest(
            kind=pb.PlacementKind.Value(f"PLACEMENT_KIND_{kind.value.upper()}"),
            zone_id=zone_id,
            filter=text,
        )
        answer = self._caller.quick(self._stub.ListPlacements, request)
        return tuple(
            Placement(p.id, p.name, p.zone_id, p.cluster_id, dict(p.attributes))
            for p in answer.placements
        )

    def resolve_pool(self, storage_id: str) -> Pool:
        """The pool's source, type and mount options, with which a storage host mounts it."""
        request = pb.ResolveStoragePoolRequest(id=storage_id)
        pool = self._caller.quick(self._stub.ResolveStoragePool, request).pool
        return Pool(pool.id, pool.name, pool.type, pool.source, pool.path, pool.options)

    def get_vm(self, vm_id: str) -> TargetVm:
        """A machine by id."""
        vm = self._caller.quick(self._stub.GetVm, pb.GetVmRequest(id=vm_id)).vm
        return TargetVm(
            id=vm.id,
            name=vm.name,
            state=vm.state,
            nics={nic.network_id: nic.mac for nic in vm.nics},
            volumes={volume.path: volume.id for volume in vm.volumes},
        )

    def import_vm(self, job_id: str, order: VmImport) -> Job:
        """Import a root disk."""
        request = pb.StartVmImportRequest(
            job_id=job_id,
            display_name=order.display_name,
            name_suffix=order.name_suffix,
            zone_id=order.zone_id,
            cluster_id=order.cluster_id,
            storage_id=order.storage_id,
            disk_path=order.disk_path,
            network_id=order.network_id,
            service_offering_id=order.service_offering_id,
            cpu_count=order.cpu_count,
            memory_bytes=order.memory_bytes,
            boot_type=order.boot_type,
            boot_mode=order.boot_mode,
            root_disk_controller=order.root_disk_controller,
            data_disk_controller=order.root_disk_controller,
            nic_adapter=order.nic_adapter,
        )
        return _job(self._caller.quick(self._stub.StartVmImport, request).job)

    def import_volume(
        self, job_id: str, storage_id: str, path: str, name: str, offering_id: str
    ) -> Job:
        """Import a data disk."""
        request = pb.StartVolumeImportRequest(
            job_id=job_id,
            storage_id=storage_id,
            path=path,
            name=name,
            disk_offering_id=offering_id,
        )
        return _job(self._caller.quick(self._stub.StartVolumeImport, request).job)

    def attach_volume(self, job_id: str, volume_id: str, vm_id: str) -> Job:
        """Attach a volume."""
        request = pb.StartVolumeAttachRequest(job_id=job_id, volume_id=volume_id, vm_id=vm_id)
        return _job(self._caller.quick(self._stub.StartVolumeAttach, request).job)

    def add_nic(self, job_id: str, vm_id: str, network_id: str, mac: str) -> Job:
        """Add an adapter."""
        request = pb.StartNicAddRequest(job_id=job_id, vm_id=vm_id, network_id=network_id, mac=mac)
        return _job(self._caller.quick(self._stub.StartNicAdd, request).job)

    def start_vm(self, job_id: str, vm_id: str) -> Job:
        """Start a machine."""
        request = pb.StartVmStartRequest(job_id=job_id, vm_id=vm_id)
        return _job(self._caller.quick(self._stub.StartVmStart, request).job)

    def stop_vm(self, job_id: str, vm_id: str) -> Job:
        """Power a machine off without asking its guest."""
        request = pb.StartVmStopRequest(job_id=job_id, vm_id=vm_id, forced=True)
        return _job(self._caller.quick(self._stub.StartVmStop, request).job)

    def unmanage_vm(self, job_id: str, vm_id: str) -> Job:
        """Unmanage a machine, keep its disks."""
        request = pb.StartVmUnmanageRequest(job_id=job_id, vm_id=vm_id)
        return _job(self._caller.quick(self._stub.StartVmUnmanage, request).job)

    def unmanage_volume(self, job_id: str, volume_id: str) -> Job:
        """Unmanage a volume, keep its file."""
        request = pb.StartVolumeUnmanageRequest(job_id=job_id, volume_id=volume_id)
        return _job(self._caller.quick(self._stub.StartVolumeUnmanage, request).job)

    def get_job(self, job_id: str) -> Job:
        """The job's present state and result."""
        return _job(self._caller.quick(self._stub.GetJob, pb.GetJobRequest(job_id=job_id)).job)

    def update_vm(self, vm_id: str, os_type_id: str) -> None:
        """Set the OS type; "" keeps the one that CloudStack chose."""
        request = pb.UpdateVmRequest(vm_id=vm_id, os_type_id=os_type_id)
        self._caller.quick(self._stub.UpdateVm, request)


def _job(job: pb.Job) -> Job:
    return Job(
        job_id=job.job_id,
        state=member(JobState, pb.JobState.Name(job.state)),
        resource_id=job.resource_id,
        failure=reported(job.failure),
    )
