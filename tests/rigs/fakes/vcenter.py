"""An in-memory vCenter behind the VMware agent's port, a clock that never waits, and builders."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from services.kit.failure import ServiceError
from services.vmware_agent.errors import (
    SnapshotNotFound,
    ToolsNotRunning,
    VmNotFound,
    WrongPowerState,
)
from services.vmware_agent.vm import (
    About,
    ChangedAreaPage,
    ControllerType,
    Disk,
    DiskController,
    Firmware,
    PowerState,
    Snapshot,
    SnapshotDisk,
    Vm,
    VmEntry,
)

MIB = 1024 * 1024


class FakeClock:
    """Time that passes only by sleeping; `on_sleep` sees each pause."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


def disk(key: int = 2000, **changes: Any) -> Disk:
    """A thin SCSI disk of 4 MiB without a tracking key of its own."""
    number = key - 2000
    made = Disk(
        key=key,
        unit=number,
        label=f"Hard disk {number + 1}",
        controller=DiskController(1000, ControllerType.SCSI, "pvscsi", 0),
        unit_number=number,
        path=f"[ds1] vm/vm_{number}.vmdk",
        capacity_bytes=4 * MIB,
        mode="persistent",
        backing="FlatVer2",
        thin=True,
        tracking_enabled=None,
    )
    return replace(made, **changes)


def snapshot(name: str, moref: str = "snapshot-900", **changes: Any) -> Snapshot:
    """A snapshot somebody took."""
    return replace(Snapshot(moref, name, "", 1_700_000_000.0, quiesced=False), **changes)


def vm(moref: str = "vm-1", name: str = "web-1", **changes: Any) -> Vm:
    """A running Linux VM with one disk, in one datacenter, without snapshots or tracking."""
    made = Vm(
        moref=moref,
        instance_uuid=f"5000-{moref}",
        name=name,
        path=f"/DC1/vm/{name}",
        power=PowerState.ON,
        template=False,
        tools_running=True,
        guest_id="debian12_64Guest",
        guest_full_name="Debian GNU/Linux 12 (64-bit)",
        firmware=Firmware.EFI,
        secure_boot=False,
        hardware_version=19,
        cpu_count=2,
        memory_bytes=2048 * MIB,
        tracking_supported=True,
        tracking_enabled=False,
        consolidation_needed=False,
        has_vtpm=False,
        encrypted=False,
        passthrough_devices=(),
        host="esx1.lab",
        disks=(disk(),),
        nics=(),
        snapshots=(),
    )
    return replace(made, **changes)


class MemoryVCenter:
    """Does at once what vCenter would do; `fail` makes the next calls of a method fail.

    A failure is an error to raise before the effect, or a function that is called instead and may
    have an effect of its own before it raises.
    """

    def __init__(self, *vms: Vm) -> None:
        self.vms = {one.moref: one for one in vms}
        self.calls: list[tuple[object, ...]] = []
        self.pages: dict[int, ChangedAreaPage] = {}
        self.frozen: dict[str, tuple[SnapshotDisk, ...]] = {}
        self.ignores_tracking_of: set[str] = set()
        self._failures: defaultdict[str, list[ServiceError | Callable[[], None]]]
        self._failures = defaultdict(list)
        self._made = 0

    def fail(self, method: str, *failures: ServiceError | Callable[[], None]) -> None:
        self._failures[method] += failures

    def called(self, method: str) -> list[tuple[object, ...]]:
        """The arguments of each call of `method`."""
        return [call[1:] for call in self.calls if call[0] == method]

    def change(self, moref: str, **changes: Any) -> None:
        self.vms[moref] = replace(self.vms[moref], **changes)

    async def about(self) -> About:
        self._enter("about")
        return About("VMware vCenter Server 8.0.3", "8.0.3.0", "vc-uuid", "AA:BB")

    async def list_entries(self) -> Sequence[VmEntry]:
        self._enter("list_entries")
        return [
            VmEntry(one.moref, one.instance_uuid, one.name, one.path, one.template)
            for one in self.vms.values()
        ]

    async def get_vms(self, vms: Sequence[str]) -> Sequence[Vm]:
        self._enter("get_vms", *vms)
        return [self.vms[moref] for moref in vms if moref in self.vms]

    async def disk_usage(self, vm: str) -> Mapping[int, int]:
        self._enter("disk_usage", vm)
        return {}

    async def get_vm(self, vm: str) -> Vm:
        self._enter("get_vm", vm)
        if vm not in self.vms:
            raise VmNotFound(message=f"vCenter has no VM {vm}")
        return self.vms[vm]

    async def set_tracking(self, vm: str, disks: Sequence[str], timeout_seconds: float) -> None:
        self._enter("set_tracking", vm, tuple(disks))
        self.change(
            vm,
            tracking_enabled=True,
            disks=tuple(
                replace(one, tracking_enabled=True)
                if one.address in set(disks) - self.ignores_tracking_of
                else one
                for one in self.vms[vm].disks
            ),
        )

    async def create_snapshot(
        self, vm: str, name: str, description: str, *, quiesce: bool, timeout_seconds: float
    ) -> str:
        self._enter("create_snapshot", vm, name, quiesce)
        return self.add_snapshot(vm, name, quiesced=quiesce)

    def add_snapshot(self, vm: str, name: str, **changes: Any) -> str:
        self._made += 1
        made = snapshot(name, f"snapshot-{self._made}", **changes)
        self.change(vm, snapshots=(*self.vms[vm].snapshots, made))
        return made.moref

    async def remove_snapshot(self, snapshot: str, timeout_seconds: float) -> None:
        self._enter("remove_snapshot", snapshot)
        self.drop_snapshot(snapshot)

    def drop_snapshot(self, snapshot: str) -> None:
        for one in self.vms.values():
            kept = tuple(s for s in one.snapshots if s.moref != snapshot)
            if len(kept) < len(one.snapshots):
                self.change(one.moref, snapshots=kept)
                return
        raise SnapshotNotFound(message=f"vCenter has no snapshot {snapshot}")

    async def consolidate(self, vm: str, timeout_seconds: float) -> None:
        self._enter("consolidate", vm)
        self.change(vm, consolidation_needed=False)

    async def snapshot_disks(self, snapshot: str) -> tuple[SnapshotDisk, ...]:
        self._enter("snapshot_disks", snapshot)
        return self.frozen.get(snapshot, (SnapshotDisk(2000, "[ds1] a.vmdk", 4 * MIB, "aa/2"),))

    async def changed_areas(
        self, vm: str, snapshot: str, disk_key: int, change_id: str, start: int
    ) -> ChangedAreaPage:
        self._enter("changed_areas", vm, snapshot, disk_key, change_id, start)
        return self.pages[start]

    async def power_on(self, vm: str, timeout_seconds: float) -> None:
        self._enter("power_on", vm)
        if self.vms[vm].power is PowerState.ON:
            raise WrongPowerState(message=f"{vm} is on")
        self.change(vm, power=PowerState.ON)

    async def power_off(self, vm: str, timeout_seconds: float) -> None:
        self._enter("power_off", vm)
        if self.vms[vm].power is PowerState.OFF:
            raise WrongPowerState(message=f"{vm} is off")
        self.change(vm, power=PowerState.OFF)

    async def shutdown_guest(self, vm: str) -> None:
        self._enter("shutdown_guest", vm)
        if not self.vms[vm].tools_running:
            raise ToolsNotRunning(message=f"{vm} has no Tools")

    def _enter(self, method: str, *arguments: object) -> None:
        self.calls.append((method, *arguments))
        if self._failures[method]:
            failure = self._failures[method].pop(0)
            if isinstance(failure, ServiceError):
                raise failure
            failure()
