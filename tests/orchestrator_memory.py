"""The three agents in memory: a vCenter whose guests keep writing, a storage host that really
copies, a CloudStack with jobs. What must never happen is kept in `World.broken`.

A disk is a dict from block number to content; a block that is missing holds zeroes.
"""

import copy
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from services.kit.errors import ServiceError, StatusCode
from services.orchestrator.ports import (
    Agents,
    Area,
    ConversionSnapshot,
    Finding,
    Job,
    Placement,
    PlacementKind,
    Pool,
    SnapshotDisk,
    SourceDisk,
    SourceNic,
    SourceSnapshot,
    SourceVm,
    TargetVm,
    TransferMode,
    TransferOrder,
    TransferSnapshot,
    VmImport,
)

BLOCK = 64 * 1024
Blocks = dict[int, int]


class Crash(BaseException):
    """The process dies here; nothing in the product may catch it."""


def failure(reason: str, *, retryable: bool = False, message: str = "") -> ServiceError:
    """An agent's error."""
    return ServiceError(
        code=StatusCode.ABORTED,
        reason=reason,
        message=message or reason.lower().replace("_", " "),
        retryable=retryable,
    )


@dataclass
class World:
    """What the agents share: the seed of what guests write, rules that were broken, calls made."""

    seed: int = 1
    broken: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    # Errors to raise instead of a call, by "agent.method", first come first served.
    faults: dict[str, list[BaseException]] = field(default_factory=dict)
    # Called with "agent.method" and its arguments before and after each call.
    before: list[Callable[[str, tuple[Any, ...]], None]] = field(default_factory=list)
    after: list[Callable[[str, tuple[Any, ...]], None]] = field(default_factory=list)

    # Ticks of several migrations call from threads of their own.
    lock: threading.RLock = field(default_factory=threading.RLock)

    def rule(self, holds: bool, text: str) -> None:
        """Note a rule that does not hold."""
        if not holds:
            self.broken.append(text)

    def count(self, call: str) -> int:
        """How often "agent.method" was called."""
        return self.calls.count(call)


class Recorded:
    """An agent whose every call is recorded, can be made to fail, and is a point to crash at."""

    def __init__(self, name: str, agent: object, world: World) -> None:
        self._name, self._agent, self._world = name, agent, world

    def __getattr__(self, method: str) -> Any:
        name, real, world = f"{self._name}.{method}", getattr(self._agent, method), self._world

        def call(*args: Any, **kwargs: Any) -> Any:
            with world.lock:
                return run(*args, **kwargs)

        def run(*args: Any, **kwargs: Any) -> Any:
            world.calls.append(name)
            for hook in world.before:
                hook(name, args)
            planned = world.faults.get(name)
            if planned:
                raise planned.pop(0)
            result = real(*args, **kwargs)
            for hook in world.after:
                hook(name, args)
            return result

        return call


@dataclass
class MemoryDisk:
    """A disk with its changed block tracking: the generation in which each block was written."""

    key: int
    unit: int
    block_count: int
    blocks: Blocks = field(default_factory=dict)
    generations: dict[int, int] = field(default_factory=dict)
    generation: int = 1
    tracking: str = ""
    unsupported_reason: str = ""

    @property
    def capacity_bytes(self) -> int:
        return self.block_count * BLOCK

    def write(self, block: int, value: int) -> None:
        self.blocks[block] = value
        self.generations[block] = self.generation

    def freeze(self) -> "FrozenDisk":
        change_id = f"{self.tracking}/{self.generation}" if self.tracking else ""
        frozen = FrozenDisk(dict(self.blocks), dict(self.generations), change_id)
        self.generation += 1
        return frozen


@dataclass(frozen=True)
class FrozenDisk:
    """A disk as a snapshot has it."""

    blocks: Blocks
    generations: dict[int, int]
    change_id: str


@dataclass
class MemoryVm:
    """A machine at the source. `on_shutdown` is off, ignore or slow (off after some polls)."""

    moref: str
    name: str
    disks: list[MemoryDisk]
    power: str = "on"
    tools: bool = True
    guest: str = "Debian GNU/Linux 12"
    on_shutdown: str = "off"
    snapshots: dict[str, dict[int, FrozenDisk]] = field(default_factory=dict)
    snapshot_names: dict[str, str] = field(default_factory=dict)
    nics: tuple[SourceNic, ...] = ()
    tracked: bool = False

    def source(self) -> SourceVm:
        return SourceVm(
            moref=self.moref,
            instance_uuid=f"uuid-{self.moref}",
            name=self.name,
            path=f"/DC1/vm/{self.name}",
            power=self.power,
            tools_running=self.tools and self.power == "on",
            guest=self.guest,
            firmware="bios",
            secure_boot=False,
            cpu_count=2,
            memory_bytes=2 << 30,
            disks=tuple(
                SourceDisk(
                    key=d.key,
                    unit=d.unit,
                    slot=f"scsi0:{d.unit}",
                    label=f"Hard disk {n}",
                    path=f"[ds1] {self.name}/{n}.vmdk",
                    capacity_bytes=d.capacity_bytes,
                    used_bytes=len(d.blocks) * BLOCK,
                    unsupported_reason=d.unsupported_reason,
                )
                for n, d in enumerate(self.disks, 1)
            ),
            nics=self.nics,
        )


class MemoryVcenter:
    """Implements `ports.VmwarePort`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.vms: dict[str, MemoryVm] = {}
        self.frozen: dict[str, Blocks] = {}
        self.findings: tuple[Finding, ...] = ()
        self._random = random.Random(world.seed)
        self._numbers = 0

    def add(self, vm: MemoryVm) -> MemoryVm:
        """Put a machine into the inventory; a third of every disk is written."""
        self.vms[vm.moref] = vm
        for disk in vm.disks:
            for block in range(0, disk.block_count, 3):
                disk.write(block, self._value())
        return vm

    def guests_write(self) -> None:
        """Time has passed: every running guest writes, zeroes too."""
        for vm in self.vms.values():
            if vm.power == "on":
                for disk in vm.disks:
                    value = self._value() if self._random.random() < 0.8 else 0
                    disk.write(self._random.randrange(disk.block_count), value)

    def read(self, moref: str, snapshot: str, key: int) -> Blocks:
        """What the data path reads. Raises SOURCE_GONE when the snapshot is no more."""
        frozen = self.vms[moref].snapshots.get(snapshot)
        if frozen is None:
            raise failure("SOURCE_GONE")
        return frozen[key].blocks

    def reset_tracking(self, moref: str) -> None:
        """What a storage migration does: tracking begins anew under another uuid."""
        for disk in self.vms[moref].disks:
            disk.tracking = f"52 {self._number()}"

    def lose_snapshots(self, moref: str) -> None:
        """Somebody deletes all snapshots of a machine."""
        self.vms[moref].snapshots.clear()
        self.vms[moref].snapshot_names.clear()

    def thumbprint(self) -> str:
        return "AA:BB"

    def list_vms(self, text: str, page_size: int, token: str) -> tuple[tuple[SourceVm, ...], str]:
        found = [vm.source() for vm in self.vms.values() if text in vm.name]
        start = int(token or 0)
        end = start + page_size
        return tuple(found[start:end]), str(end) if end < len(found) else ""

    def get_vm(self, *, moref: str = "", name: str = "") -> SourceVm:
        for vm in self.vms.values():
            if (moref and vm.moref == moref) or (not moref and vm.name == name):
                return vm.source()
        raise ServiceError(
            code=StatusCode.NOT_FOUND, reason="VM_NOT_FOUND", message=f"there is no {name or moref}"
        )

    def check_vm(self, moref: str) -> tuple[Finding, ...]:
        return self.findings

    def enable_tracking(self, moref: str) -> bool:
        vm = self.vms[moref]
        was_off, vm.tracked = not vm.tracked, True
        return was_off

    def create_snapshot(self, moref: str, name: str, quiesce: str) -> SourceSnapshot:
        vm = self.vms[moref]
        existing = vm.snapshot_names.get(name)
        if existing is None:
            self._world.rule(not vm.snapshots, f"{name} was created before the last one was gone")
            existing = f"snapshot-{self._number()}"
            for disk in vm.disks:
                if vm.tracked and not disk.tracking:
                    disk.tracking = f"52 {self._number()}"
            vm.snapshots[existing] = {d.key: d.freeze() for d in vm.disks}
            vm.snapshot_names[name] = existing
            for disk in vm.disks:
                frozen = vm.snapshots[existing][disk.key]
                self.frozen[f"{disk.key} {frozen.change_id}"] = frozen.blocks
        disks = tuple(
            SnapshotDisk(
                d.key,
                f"[ds1] {vm.name}/{d.key}.vmdk",
                vm.snapshots[existing][d.key].change_id,
                d.capacity_bytes,
            )
            for d in vm.disks
        )
        return SourceSnapshot(existing, name, disks)

    def remove_snapshot(self, moref: str, name: str) -> bool:
        vm = self.vms[moref]
        snapshot = vm.snapshot_names.pop(name, None)
        if snapshot is not None:
            vm.snapshots.pop(snapshot, None)
        return snapshot is not None

    def snapshot_names(self, moref: str, prefix: str) -> tuple[str, ...]:
        return tuple(n for n in self.vms[moref].snapshot_names if n.startswith(prefix))

    def changed_areas(
        self, moref: str, snapshot_moref: str, disk_key: int, change_id: str
    ) -> Iterator[Area]:
        frozen = self.vms[moref].snapshots.get(snapshot_moref)
        if frozen is None:
            raise failure("SNAPSHOT_NOT_FOUND")
        uuid, _, generation = change_id.partition("/")
        if frozen[disk_key].change_id.partition("/")[0] != uuid:
            raise failure("CBT_RESET")
        for block, written in sorted(frozen[disk_key].generations.items()):
            if written > int(generation):
                yield Area(block * BLOCK, BLOCK)

    def power(self, moref: str) -> tuple[str, bool]:
        vm = self.vms[moref]
        if vm.on_shutdown.startswith("slow-"):
            left = int(vm.on_shutdown.removeprefix("slow-"))
            vm.on_shutdown = f"slow-{left - 1}"
            if left <= 0:
                vm.power = "off"
        return vm.power, vm.tools and vm.power == "on"

    def shutdown_guest(self, moref: str) -> None:
        vm = self.vms[moref]
        if not vm.tools:
            raise failure("TOOLS_NOT_RUNNING")
        if vm.on_shutdown == "off":
            vm.power = "off"
        elif vm.on_shutdown == "slow":
            vm.on_shutdown = "slow-3"

    def power_off(self, moref: str) -> None:
        self.vms[moref].power = "off"

    def power_on(self, moref: str) -> None:
        self.vms[moref].power = "on"

    def _value(self) -> int:
        return self._random.randrange(1, 1 << 30)

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers


@dataclass
class MemoryTransfer:
    """A transfer and the blocks it still has to go through."""

    order: TransferOrder
    state: str = "queued"
    todo: list[int] = field(default_factory=list)
    total: int = 0
    read: int = 0
    written: int = 0
    reason: str = ""

    def snapshot(self) -> TransferSnapshot:
        return TransferSnapshot(
            transfer_id=self.order.transfer_id,
            state=self.state,
            total_bytes=self.total * BLOCK,
            done_bytes=(self.total - len(self.todo)) * BLOCK,
            read_bytes=self.read * BLOCK,
            written_bytes=self.written * BLOCK,
            digest=f"digest-{self.order.pass_number}" if self.state == "succeeded" else "",
            reason=self.reason,
        )


@dataclass
class MemoryImage:
    """An image with the digests of what was read for it, and the snapshot that fills it."""

    block_count: int
    blocks: Blocks = field(default_factory=dict)
    digests: Blocks = field(default_factory=dict)
    base_snapshot: str = ""
    base_done: set[int] = field(default_factory=set)
    converted: bool = False


class MemoryStorage:
    """Implements `ports.DiskPort`. Each look at a transfer moves it `pace` blocks on."""

    def __init__(self, world: World, vcenter: MemoryVcenter, pace: int = 7) -> None:
        self._world = world
        self._vcenter = vcenter
        self.pace = pace
        self.images: dict[str, MemoryImage] = {}
        self.ranges: dict[str, list[Area]] = {}
        self.transfers: dict[str, MemoryTransfer] = {}
        self.conversions: dict[str, dict[str, Any]] = {}
        self.epochs: dict[str, int] = {}
        self.conversion_polls = 2
        self.conversion_failure = ""
        # Set from another thread in tests with real time: transfers stand still.
        self.held = False

    def capabilities(self) -> Mapping[str, str]:
        return {"sources": "vddk", "virt_v2v": "2.2"}

    def ensure_pool(self, pool: Pool) -> str:
        return f"/pools/{pool.id}"

    def create_image(self, pool_id: str, name: str, size_bytes: int, expected_bytes: int) -> str:
        path = f"/pools/{pool_id}/{name}"
        self.images.setdefault(path, MemoryImage(size_bytes // BLOCK))
        return path

    def delete_image(self, path: str) -> None:
        if any(self._at_work(t, path) for t in self.transfers.values()) or any(
            c["state"] == "running" and path in c["images"] for c in self.conversions.values()
        ):
            raise failure("IMAGE_LOCKED", retryable=True)
        self.images.pop(path, None)

    def put_ranges(self, ranges_id: str, capacity_bytes: int, areas: Iterator[Area]) -> int:
        self.ranges[ranges_id] = list(areas)
        return sum(a.length for a in self.ranges[ranges_id])

    def start_transfer(self, order: TransferOrder) -> TransferSnapshot:
        self._fence(order.target_path, order.epoch)
        known = self.transfers.get(order.transfer_id)
        if known is not None:
            if replace(known.order, epoch=0) != replace(order, epoch=0):
                raise failure("TRANSFER_EXISTS")
            if known.state == "cancelled":
                raise failure("TRANSFER_ENDED")
            if known.state != "failed":
                return known.snapshot()
        if any(self._at_work(t, order.target_path) for t in self.transfers.values()):
            raise failure("TARGET_BUSY", retryable=True)
        transfer = known or MemoryTransfer(order)
        self._plan(transfer)
        self.transfers[order.transfer_id] = transfer
        return transfer.snapshot()

    def get_transfer(self, transfer_id: str) -> TransferSnapshot:
        self._vcenter.guests_write()
        transfer = self._transfer(transfer_id)
        if transfer.state in {"queued", "running"} and not self.held:
            self._advance(transfer)
        return transfer.snapshot()

    def cancel_transfer(self, transfer_id: str, epoch: int) -> None:
        transfer = self._transfer(transfer_id)
        self._fence(transfer.order.target_path, epoch)
        if transfer.state in {"queued", "running", "failed"}:
            transfer.state = "cancelled"

    def start_conversion(
        self, conversion_id: str, images: Sequence[str], virtio_iso: str, epoch: int
    ) -> ConversionSnapshot:
        known = self.conversions.get(conversion_id)
        if known is None or known["state"] == "failed":
            fresh = {"state": "running", "images": tuple(images), "left": self.conversion_polls}
            self.conversions[conversion_id] = fresh
        return ConversionSnapshot(self.conversions[conversion_id]["state"])

    def get_conversion(self, conversion_id: str) -> ConversionSnapshot:
        now = self._conversion(conversion_id)
        if now["state"] == "running":
            now["left"] -= 1
            if now["left"] <= 0 and self.conversion_failure:
                now["state"] = "failed"
            elif now["left"] <= 0:
                now["state"] = "succeeded"
                self.images[now["images"][0]].converted = True
        reason = self.conversion_failure if now["state"] == "failed" else ""
        return ConversionSnapshot(now["state"], step="Inspecting", guest_os="Linux", reason=reason)

    def cancel_conversion(self, conversion_id: str, epoch: int) -> None:
        now = self._conversion(conversion_id)
        if now["state"] == "running":
            now["state"] = "cancelled"

    def _plan(self, transfer: MemoryTransfer) -> None:
        order = transfer.order
        image = self.images[order.target_path]
        self._world.rule(
            not image.converted or order.mode is TransferMode.VERIFY_TARGET,
            f"{order.mode} after the conversion of {order.target_path}",
        )
        if transfer.state == "failed":
            transfer.state = "queued"
            return
        whole = list(range(image.block_count))
        if order.mode is TransferMode.RANGES:
            transfer.todo = [a.offset // BLOCK for a in self.ranges[order.ranges_id]]
            transfer.total = len(transfer.todo)
        else:
            transfer.todo, transfer.total = whole, len(whole)
        if order.mode is TransferMode.FULL:
            if image.base_snapshot not in ("", order.snapshot_moref):
                self._world.broken.append(f"{order.transfer_id} mixes two snapshots in one image")
            image.base_snapshot = order.snapshot_moref
            transfer.todo = [b for b in whole if b not in image.base_done]

    def _advance(self, transfer: MemoryTransfer) -> None:
        order, image = transfer.order, self.images[transfer.order.target_path]
        transfer.state = "running"
        batch, transfer.todo = transfer.todo[: self.pace], transfer.todo[self.pace :]
        try:
            for block in batch:
                self._copy(transfer, order, image, block)
        except ServiceError as exc:
            transfer.todo = batch + transfer.todo
            transfer.state, transfer.reason = "failed", exc.reason
            return
        if not transfer.todo:
            transfer.state = "succeeded"

    def _copy(
        self, transfer: MemoryTransfer, order: TransferOrder, image: MemoryImage, block: int
    ) -> None:
        transfer.read += 1
        if order.mode is TransferMode.VERIFY_TARGET:
            if image.blocks.get(block, 0) != image.digests.get(block, 0):
                raise failure("TARGET_DIFFERS")
            return
        key = int(order.disk_id.rpartition("/")[2])
        value = self._vcenter.read(order.vm_moref, order.snapshot_moref, key).get(block, 0)
        image.base_done.add(block)
        if order.mode is TransferMode.RESYNC and image.digests.get(block, 0) == value:
            return
        transfer.written += 1
        image.blocks[block] = image.digests[block] = value

    def _at_work(self, transfer: MemoryTransfer, path: str) -> bool:
        return transfer.order.target_path == path and transfer.state in {"queued", "running"}

    def _fence(self, path: str, epoch: int) -> None:
        if epoch < self.epochs.get(path, 0):
            raise failure("STALE_EPOCH")
        self.epochs[path] = epoch

    def _transfer(self, transfer_id: str) -> MemoryTransfer:
        if transfer_id not in self.transfers:
            raise failure("TRANSFER_NOT_FOUND")
        return self.transfers[transfer_id]

    def _conversion(self, conversion_id: str) -> dict[str, Any]:
        if conversion_id not in self.conversions:
            raise failure("CONVERSION_NOT_FOUND")
        return self.conversions[conversion_id]


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
    """A job: what it does when its polls have run out."""

    kind: str
    effect: Callable[[], str]
    left: int
    job: Job


class MemoryCloudstack:
    """Implements `ports.CloudstackPort`. A job takes `polls` looks."""

    def __init__(self, world: World, storage: MemoryStorage) -> None:
        self._world = world
        self._storage = storage
        self.polls = 2
        self.vms: dict[str, MemoryTargetVm] = {}
        self.volumes: dict[str, str] = {}
        self.jobs: dict[str, MemoryJob] = {}
        # Reasons with which the next job of a kind fails.
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
            raise ServiceError(
                code=StatusCode.NOT_FOUND, reason="VM_NOT_FOUND", message=f"there is no {vm_id}"
            )
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
            raise ServiceError(
                code=StatusCode.NOT_FOUND, reason="JOB_NOT_FOUND", message=f"no job {job_id}"
            )
        if entry.job.state == "running":
            entry.left -= 1
            if entry.left <= 0:
                planned = self.failures.get(entry.kind)
                if planned:
                    entry.job = replace(planned.pop(0), job_id=job_id, state="failed")
                else:
                    entry.job = Job(job_id, "succeeded", entry.effect())
        return entry.job

    def update_vm(self, vm_id: str, os_type_id: str, details: Mapping[str, str]) -> None:
        self.vms[vm_id].settings = {"ostypeid": os_type_id, **details}

    def _adopt(self, storage_id: str, name: str) -> None:
        path = f"/pools/{storage_id}/{name}"
        self._world.rule(path in self._storage.images, f"{path} was imported but does not exist")

    def _start(self, kind: str, job_id: str, effect: Callable[[], str]) -> Job:
        if job_id not in self.jobs:
            self.jobs[job_id] = MemoryJob(kind, effect, self.polls, Job(job_id, "running"))
        return self.jobs[job_id].job

    def _set_state(self, vm_id: str, state: str) -> str:
        self.vms[vm_id].state = state
        return vm_id

    def _id(self, kind: str) -> str:
        self._numbers += 1
        return f"{kind}-{self._numbers}"


@dataclass
class Memory:
    """All three agents."""

    world: World
    vcenter: MemoryVcenter
    storage: MemoryStorage
    cloudstack: MemoryCloudstack
    agents: Agents


def memory_agents(seed: int = 1, pace: int = 7) -> Memory:
    """A world with empty agents; calls through `agents` are recorded."""
    world = World(seed)
    vcenter = MemoryVcenter(world)
    storage = MemoryStorage(world, vcenter, pace)
    cloudstack = MemoryCloudstack(world, storage)
    agents = Agents(
        Recorded("vmware", vcenter, world),
        Recorded("disk", storage, world),
        Recorded("cloudstack", cloudstack, world),
    )
    return Memory(world, vcenter, storage, cloudstack, agents)


def machine(
    name: str = "web-1", moref: str = "vm-1", disks: Sequence[int] = (24, 16), nics: int = 2
) -> MemoryVm:
    """A running machine with disks of so many blocks."""
    return MemoryVm(
        moref,
        name,
        [MemoryDisk(2000 + n, n, count) for n, count in enumerate(disks)],
        nics=tuple(
            SourceNic(4000 + n, n, f"Network adapter {n + 1}", "VM Network", f"00:50:56:00:00:0{n}")
            for n in range(nics)
        ),
    )


def content(blocks: Blocks) -> Blocks:
    """Blocks without the zeroes, for comparing."""
    return {block: value for block, value in copy.copy(blocks).items() if value}
