"""A vCenter in memory: snapshots, changed block tracking, power, guests that keep writing."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from services.orchestrator.ports.disk import TransferOrder
from services.orchestrator.ports.vmware import (
    Area,
    Finding,
    Firmware,
    PowerState,
    Quiesce,
    SnapshotDisk,
    SourceDisk,
    SourceNic,
    SourceSnapshot,
    SourceVm,
)
from tests.rigs.orchestrator.world import BLOCK, Blocks, World, failure


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
    """A disk at the time of a snapshot."""

    blocks: Blocks
    generations: dict[int, int]
    change_id: str


@dataclass
class MemoryVm:
    """A machine at the source. `on_shutdown` is off, ignore or slow (off after some polls)."""

    moref: str
    name: str
    disks: list[MemoryDisk]
    power: PowerState = PowerState.ON
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
            tools_running=self.tools and self.power is PowerState.ON,
            guest=self.guest,
            firmware=Firmware.BIOS,
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
            if vm.power is PowerState.ON:
                for disk in vm.disks:
                    value = self._value() if self._random.random() < 0.8 else 0
                    disk.write(self._random.randrange(disk.block_count), value)

    def read(self, moref: str, snapshot: str, key: int) -> Blocks:
        """The blocks that the data path reads. Raises SOURCE_GONE if the snapshot was removed."""
        frozen = self.vms[moref].snapshots.get(snapshot)
        if frozen is None:
            raise failure("SOURCE_GONE")
        return frozen[key].blocks

    def open_live(self, order: TransferOrder) -> None:
        """Open a disk without a snapshot: only while nobody writes to it, by its present name."""
        vm = self.vms[order.vm_moref]
        paths = [disk.path for disk in vm.source().disks]
        if order.snapshot_moref or order.source_path not in paths:
            raise failure("VDDK_DISK_NOT_FOUND")
        if vm.power is not PowerState.OFF:
            raise failure("VDDK_LOGIN")

    def reset_tracking(self, moref: str) -> None:
        """Reset tracking to a new uuid, as a storage migration does."""
        for disk in self.vms[moref].disks:
            disk.tracking = f"52 {self._number()}"

    def lose_snapshots(self, moref: str) -> None:
        """Delete all snapshots of a machine, as another client of vCenter may do."""
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
        raise failure("VM_NOT_FOUND", message=f"there is no {name or moref}")

    def check_vm(self, moref: str) -> tuple[Finding, ...]:
        return self.findings

    def enable_tracking(self, moref: str) -> bool:
        vm = self.vms[moref]
        was_off, vm.tracked = not vm.tracked, True
        return was_off

    def create_snapshot(self, moref: str, name: str, quiesce: Quiesce) -> SourceSnapshot:
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

    def power(self, moref: str) -> tuple[PowerState, bool]:
        vm = self.vms[moref]
        if vm.on_shutdown.startswith("slow-"):
            left = int(vm.on_shutdown.removeprefix("slow-"))
            vm.on_shutdown = f"slow-{left - 1}"
            if left <= 0:
                vm.power = PowerState.OFF
        return vm.power, vm.tools and vm.power is PowerState.ON

    def shutdown_guest(self, moref: str) -> None:
        vm = self.vms[moref]
        if not vm.tools:
            raise failure("TOOLS_NOT_RUNNING")
        if vm.on_shutdown == "off":
            vm.power = PowerState.OFF
        elif vm.on_shutdown == "slow":
            vm.on_shutdown = "slow-3"

    def power_off(self, moref: str) -> None:
        self.vms[moref].power = PowerState.OFF

    def power_on(self, moref: str) -> None:
        self.vms[moref].power = PowerState.ON

    def _value(self) -> int:
        return self._random.randrange(1, 1 << 30)

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers
