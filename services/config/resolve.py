"""One VM's effective settings: its spec, completed by config.yaml and the built-in defaults."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from services.config.config_model import Config
from services.config.document import FieldPath
from services.config.problems import ConfigError, Problem
from services.config.spec_model import DiskTarget, NicMapping, VmSpec

__all__ = ["DiskPlacement", "ResolvedVm", "resolve", "resolve_all"]

# What the reference tool waits after power-off, by guest family.
_SETTLE_WINDOWS_SECONDS = 30
_SETTLE_OTHER_SECONDS = 15


@dataclass(frozen=True, slots=True)
class DiskPlacement:
    """Where one disk goes: its storage pool's id, and its disk offering's if one is given."""

    storageid: str
    diskofferingid: str | None


@dataclass(frozen=True, slots=True)
class ResolvedVm:
    """What is done for one VM. Ids are CloudStack's; times in seconds."""

    name: str
    moref: str | None

    delta_interval_seconds: int
    finalize_at: datetime | None
    finalize_delta_interval_seconds: int
    finalize_window_seconds: int
    finalize_settle_seconds: int | None
    readers: int | None
    run_virt_v2v: bool
    virtio_iso: Path
    snapshot_quiesce: str
    shutdown_mode: str
    parallel_disks: int
    start_vm_after_import: bool

    zoneid: str
    clusterid: str
    serviceofferingid: str
    storageid: str | None
    networkid: str | None
    diskofferingid: str | None
    ostypeid: str | None
    boottype: str | None
    bootmode: str | None
    rootdiskcontroller: str | None
    nicadapter: str | None
    nic_mappings: Mapping[str, NicMapping]
    disks: Mapping[str, DiskTarget]

    spec: VmSpec

    def placement(self, unit: int) -> DiskPlacement:
        """Where the disk with the number `unit` goes: disk, then target, then defaults.

        Raises ConfigError when nothing gives a storage pool.
        """
        disk = self.disks.get(str(unit), DiskTarget())
        storageid = disk.storageid or self.storageid
        if storageid is None:
            raise ConfigError((_missing_storage(self.spec, f'disks["{unit}"].storageid'),))
        return DiskPlacement(storageid, disk.diskofferingid or self.diskofferingid)

    def network(self, device_key: int, index: int) -> str | None:
        """The network of the NIC with VMware's `device_key`, at `index` (0 is the first).

        A NIC without a mapping is left out (None), except the first: it gets `networkid`.
        """
        mapping = self.nic_mappings.get(str(device_key))
        if mapping is not None:
            return mapping.networkid
        return self.networkid if index == 0 else None

    def settle_seconds(self, *, windows: bool) -> int:
        """How long to wait between power-off and the final sync."""
        if self.finalize_settle_seconds is not None:
            return self.finalize_settle_seconds
        return _SETTLE_WINDOWS_SECONDS if windows else _SETTLE_OTHER_SECONDS


def resolve(spec: VmSpec, config: Config) -> ResolvedVm:
    """Complete `spec` by `config`. Raises ConfigError naming every required id that is missing."""
    own, common = spec.migration, config.migration
    target, defaults = spec.target.cloudstack, config.cloudstack_defaults
    problems: list[Problem] = []

    def required(name: str) -> str:
        value: str | None = getattr(target, name) or getattr(defaults, name)
        if value is None:
            problems.append(_missing(spec, name, f"or cloudstack_defaults.{name} in config.yaml"))
        return value or ""

    zoneid, clusterid = required("zoneid"), required("clusterid")
    serviceofferingid = required("serviceofferingid")
    storageid = target.storageid or defaults.storageid
    if storageid is None and not any(disk.storageid for disk in spec.disks.values()):
        problems.append(_missing_storage(spec, "disks[unit].storageid"))
    networkid = target.networkid or defaults.networkid
    if networkid is None and not target.nic_mappings:
        problems.append(
            _missing(
                spec,
                "networkid",
                "a nic_mappings entry there, or cloudstack_defaults.networkid in config.yaml",
            )
        )
    boottype = target.boottype or defaults.boottype
    bootmode = target.bootmode or (None if target.boottype == "BIOS" else defaults.bootmode)
    if boottype == "BIOS" and bootmode == "SECURE":
        problems.append(
            spec.problem(
                ("target", "cloudstack", "bootmode"),
                "SECURE needs boottype UEFI, but it is BIOS",
                value=bootmode,
                hint="Set boottype to UEFI, or bootmode to LEGACY.",
            )
        )
    if problems:
        raise ConfigError(tuple(problems))
    settle = own.finalize_settle_seconds
    return ResolvedVm(
        name=spec.vm.name,
        moref=spec.vm.moref,
        delta_interval_seconds=own.delta_interval,
        finalize_at=own.finalize_at,
        finalize_delta_interval_seconds=own.finalize_delta_interval,
        finalize_window_seconds=own.finalize_window,
        finalize_settle_seconds=common.finalize_settle_seconds if settle is None else settle,
        readers=own.readers,
        run_virt_v2v=config.virt.run_virt_v2v if own.run_virt_v2v is None else own.run_virt_v2v,
        virtio_iso=config.virt.virtio_iso,
        snapshot_quiesce=own.snapshot_quiesce or common.snapshot_quiesce,
        shutdown_mode=own.shutdown_mode or common.shutdown_mode,
        parallel_disks=own.parallel_disks or common.parallel_disks,
        start_vm_after_import=own.start_vm_after_import,
        zoneid=zoneid,
        clusterid=clusterid,
        serviceofferingid=serviceofferingid,
        storageid=storageid,
        networkid=networkid,
        diskofferingid=target.diskofferingid or defaults.diskofferingid,
        ostypeid=target.ostypeid or defaults.ostypeid,
        boottype=boottype,
        bootmode=bootmode,
        rootdiskcontroller=target.rootdiskcontroller or defaults.rootdiskcontroller,
        nicadapter=target.nicadapter or defaults.nicadapter,
        nic_mappings=target.nic_mappings,
        disks=spec.disks,
        spec=spec,
    )


def resolve_all(specs: Iterable[VmSpec], config: Config) -> tuple[ResolvedVm, ...]:
    """Complete each of `specs`. Raises ConfigError with what is missing in any of them."""
    resolved: list[ResolvedVm] = []
    problems: list[Problem] = []
    for spec in specs:
        try:
            resolved.append(resolve(spec, config))
        except ConfigError as exc:
            problems += exc.problems
    if problems:
        raise ConfigError(tuple(problems))
    return tuple(resolved)


def _missing(spec: VmSpec, name: str, elsewhere: str) -> Problem:
    path: FieldPath = ("target", "cloudstack", name)
    hint = f"Give target.cloudstack.{name} in the spec, {elsewhere}."
    message = f"is required to migrate {spec.vm.name!r} and not given"
    return spec.problem(path, message, hint=hint)


def _missing_storage(spec: VmSpec, disk_field: str) -> Problem:
    elsewhere = f"{disk_field} there, or cloudstack_defaults.storageid in config.yaml"
    return _missing(spec, "storageid", elsewhere)
