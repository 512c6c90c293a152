"""A CloudStack in memory, with jobs."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from services.orchestrator.ports.cloudstack import (
    Job,
    JobState,
    Placement,
    PlacementKind,
    TargetVm,
    VmImport,
)
from services.orchestrator.ports.disk import Pool
from tests.rigs.orchestrator.storage import MemoryStorage
from tests.rigs.orchestrator.world import World, failure


@dataclass
class MemoryTargetVm:
    """A machine in CloudStack."""

    id: str
    name: str
    root_path: str
    state: str = "Stopped"
    nics: dict[str, str] = field(default_factory=dict)
    volumes: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)


@dataclass
class MemoryJob:
    """A job, and the effect it has after its last poll."""

    kind: str
    effect: Callable[[], str]
    left: int
    job: Job


class MemoryCloudstack:
    """Implements `ports.CloudstackPort`. A job ends after `polls` calls of get_job."""

    def __init__(self, world: World, storage: MemoryStorage) -> None:
        self._world = world
        self._storage = storage
        self.polls = 2
        self.vms: dict[str, MemoryTargetVm] = {}
        self.volumes: dict[str, str] = {}
        self.jobs: dict[str, MemoryJob] = {}
        # The failures of the next jobs of a kind.
        self.failures: dict[str, list[Job]] = {}
        self._numbers = 0

    def check(self) -> str:
        return "4.20"

    def placements(self, kind: PlacementKind, zone_id: str, text: str) -> tuple[Placement, ...]:
        return (Placement(f"{kind}-1", f"{kind} one", zone_id, "", {"kind": kind.value}),)

    def resolve_pool(self, storage_id: str) -> Pool:
        return Pool(storage_id, f"pool {storage_id}", "SharedMountPoint", "", "/pool")

    def get_vm(self, vm_id: str) -> TargetVm:
        vm = self.vms.get(vm_id)
        if vm is None:
            raise failure("VM_NOT_FOUND", message=f"there is no {vm_id}")
        return TargetVm(vm.id, vm.name, vm.state, dict(vm.nics), dict(vm.volumes))

    def import_vm(self, job_id: str, order: VmImport) -> Job:
        def effect() -> str:
            for vm in self.vms.values():
                if vm.root_path == order.disk_path:
                    return vm.id
            self._adopt(order.storage_id, order.disk_path)
            made = MemoryTargetVm(self._id("vm"), order.display_name, order.disk_path)
            made.nics[order.network_id] = "02:00"
            made.volumes[order.disk_path] = self._id("volume")
            self.vms[made.id] = made
            return made.id

        return self._start("import_vm", job_id, effect)

    def import_volume(
        self, job_id: str, storage_id: str, path: str, name: str, offering_id: str
    ) -> Job:
        def effect() -> str:
            for volume_id, known in self.volumes.items():
                if known == path:
                    return volume_id
            self._adopt(storage_id, path)
            volume_id = self._id("volume")
            self.volumes[volume_id] = path
            return volume_id

        return self._start("import_volume", job_id, effect)

    def attach_volume(self, job_id: str, volume_id: str, vm_id: str) -> Job:
        def effect() -> str:
            self.vms[vm_id].volumes[self.volumes[volume_id]] = volume_id
            return volume_id

        return self._start("attach_volume", job_id, effect)

    def add_nic(self, job_id: str, vm_id: str, network_id: str, mac: str) -> Job:
        def effect() -> str:
            self.vms[vm_id].nics[network_id] = mac
            return vm_id

        return self._start("add_nic", job_id, effect)

    def start_vm(self, job_id: str, vm_id: str) -> Job:
        return self._start("start_vm", job_id, lambda: self._set_state(vm_id, "Running"))

    def stop_vm(self, job_id: str, vm_id: str) -> Job:
        return self._start("stop_vm", job_id, lambda: self._set_state(vm_id, "Stopped"))

    def unmanage_vm(self, job_id: str, vm_id: str) -> Job:
        def effect() -> str:
            vm = self.vms.pop(vm_id)
            for volume_id in vm.volumes.values():
                self.volumes.pop(volume_id, None)
            return vm_id

        return self._start("unmanage_vm", job_id, effect)

    def unmanage_volume(self, job_id: str, volume_id: str) -> Job:
        def effect() -> str:
            del self.volumes[volume_id]
            return volume_id

        return self._start("unmanage_volume", job_id, effect)

    def get_job(self, job_id: str) -> Job:
        entry = self.jobs.get(job_id)
        if entry is None:
            raise failure("JOB_NOT_FOUND", message=f"no job {job_id}")
        if entry.job.state is JobState.RUNNING:
            entry.left -= 1
            if entry.left <= 0:
                planned = self.failures.get(entry.kind)
                if planned:
                    entry.job = replace(planned.pop(0), job_id=job_id)
                else:
                    entry.job = Job(job_id, JobState.SUCCEEDED, entry.effect())
        return entry.job

    def update_vm(self, vm_id: str, os_type_id: str) -> None:
        self.vms[vm_id].settings = {"ostypeid": os_type_id}

    def _adopt(self, storage_id: str, name: str) -> None:
        path = f"/pools/{storage_id}/{name}"
        self._world.rule(path in self._storage.images, f"{path} was imported but does not exist")

    def _start(self, kind: str, job_id: str, effect: Callable[[], str]) -> Job:
        if job_id not in self.jobs:
            self.jobs[job_id] = MemoryJob(kind, effect, self.polls, Job(job_id, JobState.RUNNING))
        return self.jobs[job_id].job

    def _set_state(self, vm_id: str, state: str) -> str:
        self.vms[vm_id].state = state
        return vm_id

    def _id(self, kind: str) -> str:
        self._numbers += 1
        return f"{kind}-{self._numbers}"
