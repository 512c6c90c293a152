"""The mutable state of simulated VMs, and its storage as one JSON file per VM."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter

from lab.scenario import Backing, Controller, DiskSpec, VmSpec

# Device keys as vSphere gives them out; the disk ranges are base + bus * width + unit.
CONTROLLER_KEYS = {
    Controller.IDE: 200,
    Controller.PVSCSI: 1000,
    Controller.LSILOGIC: 1000,
    Controller.LSILOGIC_SAS: 1000,
    Controller.SATA: 15000,
    Controller.NVME: 31000,
}
_DISK_KEYS = {"ide": (3000, 2), "scsi": (2000, 16), "sata": (16000, 30), "nvme": (32000, 15)}
NIC_KEY = 4000
_SCSI_OWN_UNIT = 7
"""The controller itself sits at unit 7 of a SCSI bus."""


def bus_kind(controller: Controller) -> str:
    """The controller's name in VMX keys such as ``scsi0:1.ctkEnabled``."""
    return {
        Controller.IDE: "ide",
        Controller.SATA: "sata",
        Controller.NVME: "nvme",
    }.get(controller, "scsi")


@dataclass
class DiskRecord:
    """One disk of a VM. ``path`` is the live file, changing with snapshots."""

    spec: DiskSpec
    key: int
    unit: int
    path: str
    capacity_bytes: int
    uuid: str
    tracked: bool = False
    """CBT is in force (the configuration alone takes effect only at the next stun)."""
    change_id: str | None = None
    """The newest changeId that vCenter has seen."""
    write_area: tuple[int, int] | None = None
    """(start, length) in bytes that the VM's writer may change without harm; None = nothing."""

    @property
    def slot(self) -> str:
        """Address as the VMX names it, e.g. ``scsi0:1``."""
        return f"{bus_kind(self.spec.controller)}{self.spec.bus}:{self.unit}"

    @property
    def controller_key(self) -> int:
        """Device key of the controller."""
        return CONTROLLER_KEYS[self.spec.controller] + self.spec.bus


@dataclass
class SnapshotDiskRecord:
    """A disk as a snapshot froze it."""

    path: str
    change_id: str | None
    capacity_bytes: int


@dataclass
class SnapshotRecord:
    """A snapshot; a VM's list is its chain, oldest first (there is no revert, so no branches)."""

    moref: str
    number: int
    name: str
    description: str
    created: datetime
    power: str
    quiesced: bool
    disks: dict[int, SnapshotDiskRecord]


@dataclass
class VmRecord:
    """All that can change about a VM. ``power`` is a vim VirtualMachinePowerState."""

    moref: str
    spec: VmSpec
    name: str
    uuid: str
    instance_uuid: str
    power: str
    change_tracking: bool
    extra_config: dict[str, str]
    disks: list[DiskRecord]
    macs: list[str]
    cpus: int
    memory_mib: int
    annotation: str
    created: datetime
    boot_time: datetime | None = None
    snapshots: list[SnapshotRecord] = field(default_factory=list)
    unconsolidated: list[str] = field(default_factory=list)
    """Morefs of snapshots that left the tree while their files stayed."""
    settings: dict[str, str] = field(default_factory=dict)
    """Behaviour chosen over the control socket; see lab.vcenter.control."""
    revision: int = 0
    busy: str | None = None
    """Moref of the task that has the VM to itself."""

    @property
    def directory(self) -> str:
        """Where the VM's files are, as ``[datastore] directory``."""
        return self.disks[0].path.rpartition("/")[0] if self.disks else f"[{self.spec.datastore}] x"

    @property
    def vmx_path(self) -> str:
        """Name of the configuration file on its datastore."""
        return f"{self.directory}/{self.spec.name}.vmx"

    def disk(self, key: int) -> DiskRecord | None:
        """The disk with that device key."""
        return next((disk for disk in self.disks if disk.key == key), None)

    def snapshot(self, moref: str) -> SnapshotRecord | None:
        """The snapshot with that moref."""
        return next((s for s in self.snapshots if s.moref == moref), None)

    def wants_tracking(self, disk: DiskRecord) -> bool:
        """Whether the configuration asks for CBT on the disk. Keys compare without case."""
        wanted = f"{disk.slot}.ctkenabled"
        values = {key.lower(): value for key, value in self.extra_config.items()}
        on = values.get(wanted, "true").lower() not in ("false", "0", "no")
        return self.change_tracking and disk.spec.trackable and on


def place_disks(specs: tuple[DiskSpec, ...]) -> Iterator[tuple[DiskSpec, int, int]]:
    """Give each disk its unit number and device key, in order: (spec, unit, key)."""
    taken: set[tuple[str, int, int]] = set()
    for spec in specs:
        kind = bus_kind(spec.controller)
        unit = spec.unit
        if unit is None:
            unit = 0
            while (kind, spec.bus, unit) in taken or (kind == "scsi" and unit == _SCSI_OWN_UNIT):
                unit += 1
        taken.add((kind, spec.bus, unit))
        base, width = _DISK_KEYS[kind]
        yield spec, unit, base + spec.bus * width + unit


def is_rdm(disk: DiskRecord) -> bool:
    """Whether the disk maps a LUN."""
    return disk.spec.backing is not Backing.FLAT


def now() -> datetime:
    """The time, as all records hold it."""
    return datetime.now(UTC)


_VM = TypeAdapter(VmRecord)


class VmStore:
    """One file per VM that ever changed, replaced atomically; a few counters beside them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._directory.mkdir(parents=True, exist_ok=True)
        self._counters = threading.Lock()

    def load(self, moref: str) -> VmRecord | None:
        """The stored state, or None if the VM is as the scenario has it."""
        path = self._path(moref)
        return _VM.validate_json(path.read_bytes()) if path.exists() else None

    def save(self, record: VmRecord) -> None:
        """Put the state on disk."""
        write_atomically(
            self._path(record.moref), _VM.dump_json(record, exclude={"busy"}, indent=1)
        )

    def delete(self, moref: str) -> None:
        """Remember that the VM was removed from the inventory."""
        write_atomically(self._path(moref).with_suffix(".deleted"), b"")

    def is_deleted(self, moref: str) -> bool:
        """Whether ``delete`` was called for it."""
        return self._path(moref).with_suffix(".deleted").exists()

    def next_number(self, counter: str) -> int:
        """The next number of a counter that never goes back. Thread-safe: tasks run beside each
        other, and two snapshots of one number would answer for each other's disks."""
        path = self._directory / f"{counter}.counter"
        with self._counters:
            number = int(path.read_text()) + 1 if path.exists() else 1
            write_atomically(path, str(number).encode())
        return number

    def _path(self, moref: str) -> Path:
        return self._directory / f"{moref}.json"


def write_atomically(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` so that a reader, or a crash, sees the old or the new content."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with open(descriptor, "wb") as stream:
        stream.write(content)
        os.fchmod(stream.fileno(), mode)
    Path(name).replace(path)
