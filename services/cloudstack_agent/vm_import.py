"""Import of a root disk as a new virtual machine (importVm).

A failed importVm can leave a machine behind: without the disk if no placement was found, or with
the disk but without an adapter if no address was free. The next attempt would create a second
machine of that name, or be refused because the disk is in use. Therefore the machine is first
looked for by name and the volume by path. A machine that is certainly a failed import of this disk
is removed without touching a file: it is unmanaged if it has the disk, expunged if it has none.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from services.cloudstack_agent import jobs
from services.cloudstack_agent.client.api import CloudStackApi, flag, list_rows, number
from services.cloudstack_agent.errors import (
    CloudStackParameterRefused,
    DiskInUse,
    ImportUnsettled,
    RequestInvalid,
)
from services.cloudstack_agent.hostnames import legal_hostname
from services.cloudstack_agent.inventory import Vm, find_volume_at, vm_by_id, vms_named
from services.cloudstack_agent.storage_pools import NfsOptions, resolve_storage_pool
from services.cloudstack_agent.vms import unmanage_parameters

_COMMAND: Final = "importVm"
_MIB: Final = 1 << 20
# For offerings without a speed. KVM uses it only as a weight between machines.
_CPU_SPEED_MHZ: Final = 1000
_BOOT_MODES: Final = frozenset({"LEGACY", "SECURE"})

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class VmImport:
    """A machine to create from a root disk. For an empty text or a zero CloudStack chooses.

    `disk_path` is the file's name in the pool's root. `cpu_count` and `memory_bytes` are used only
    if the offering does not fix them. `boot_type` is BIOS or UEFI, `boot_mode` LEGACY or SECURE.
    """

    display_name: str
    zone_id: str
    cluster_id: str
    storage_id: str
    disk_path: str
    network_id: str
    service_offering_id: str
    cpu_count: int = 0
    memory_bytes: int = 0
    boot_type: str = ""
    boot_mode: str = ""
    root_disk_controller: str = ""
    data_disk_controller: str = ""
    nic_adapter: str = ""
    name_suffix: str = ""

    @property
    def host_name(self) -> str:
        """The host name, made legal; the display name is used unchanged."""
        return legal_hostname(self.display_name, self.name_suffix)


async def start_vm_import(
    api: CloudStackApi,
    job_id: str,
    wanted: VmImport,
    *,
    sleep: jobs.Sleep,
    new_job_id: Callable[[], str] = lambda: str(uuid.uuid4()),
) -> jobs.Job:
    """Start the import, or find an earlier one: see `jobs.start`. The resource is the machine.

    Raises RequestInvalid, DiskInUse, ImportUnsettled, StoragePool… and CloudStack's refusals.
    """
    _check(wanted)

    async def effect() -> str | None:
        vm = await _imported(api, wanted)
        if vm is not None and (vm.nics or len(vm.volumes) > 1):
            return vm.id
        leftovers = [vm] if vm is not None else await _empty_shells(api, wanted)
        if leftovers and await jobs.is_running(api, _COMMAND):
            raise ImportUnsettled(
                message=f"{wanted.display_name!r} is half imported, and an import is still running",
                metadata={"vm": leftovers[0].id},
            )
        for leftover in leftovers:
            await _clear(api, leftover, new_job_id(), sleep)
        return None

    async def parameters() -> dict[str, str]:
        return await _parameters(api, wanted)

    return await jobs.start(api, _COMMAND, parameters, job_id=job_id, effect=effect)


def _check(wanted: VmImport) -> None:
    for name in (
        "display_name",
        "zone_id",
        "cluster_id",
        "storage_id",
        "disk_path",
        "network_id",
        "service_offering_id",
    ):
        if not getattr(wanted, name):
            raise RequestInvalid(message=f"{name} is required to import a virtual machine")
    if "/" in wanted.disk_path:
        raise RequestInvalid(
            message=f"disk_path {wanted.disk_path!r} is no bare file name: CloudStack finds only "
            "files in the pool's root directory"
        )
    if wanted.boot_type not in ("", "BIOS", "UEFI"):
        raise RequestInvalid(message=f"boot_type {wanted.boot_type!r} is neither BIOS nor UEFI")
    if wanted.boot_mode not in ("", *_BOOT_MODES):
        raise RequestInvalid(message=f"boot_mode {wanted.boot_mode!r} is neither LEGACY nor SECURE")


async def _parameters(api: CloudStackApi, wanted: VmImport) -> dict[str, str]:
    # importVm needs no mount options, so they are not chosen here.
    pool = await resolve_storage_pool(api, wanted.storage_id, NfsOptions("", on_ubuntu=False))
    details = await _sizes(api, wanted) | {
        "rootDiskController": wanted.root_disk_controller,
        "dataDiskController": wanted.data_disk_controller,
        "nicAdapter": wanted.nic_adapter,
        # CloudStack ignores the key in lower case, and the guest would boot with a BIOS.
        "UEFI": (wanted.boot_mode or "LEGACY") if wanted.boot_type == "UEFI" else "",
    }
    host = {"hostid": pool.host_id} if pool.host_id else {}
    return {
        "name": wanted.host_name,
        "hostname": wanted.host_name,
        "displayname": wanted.display_name,
        "zoneid": wanted.zone_id,
        "clusterid": wanted.cluster_id,
        "hypervisor": "kvm",
        "importsource": pool.import_source,
        "storageid": wanted.storage_id,
        "diskpath": wanted.disk_path,
        "networkid": wanted.network_id,
        "serviceofferingid": wanted.service_offering_id,
        **host,
        # CloudStack reads details only under index 0.
        **{f"details[0].{key}": value for key, value in details.items() if value},
    }


async def _sizes(api: CloudStackApi, wanted: VmImport) -> dict[str, str]:
    """CPUs, memory (MiB) and speed (MHz), each only if the offering does not fix it."""
    rows = await list_rows(
        api,
        "listServiceOfferings",
        "serviceoffering",
        {"id": wanted.service_offering_id, "listall": "true"},
    )
    if not rows:
        raise CloudStackParameterRefused(
            message=f"CloudStack has no service offering {wanted.service_offering_id}",
            metadata={"service_offering": wanted.service_offering_id},
        )
    offering = rows[0]
    if not flag(offering, "iscustomized"):
        return {}
    if wanted.cpu_count <= 0 or wanted.memory_bytes <= 0:
        raise RequestInvalid(
            message="the service offering does not fix CPUs and memory: give both",
            metadata={"service_offering": wanted.service_offering_id},
        )
    sizes = {
        "cpuNumber": str(wanted.cpu_count),
        "memory": str(-(-wanted.memory_bytes // _MIB)),
    }
    if not number(offering, "cpuspeed"):
        sizes["cpuSpeed"] = str(_CPU_SPEED_MHZ)
    return sizes


async def _imported(api: CloudStackApi, wanted: VmImport) -> Vm | None:
    """The machine of an earlier import of this disk, or None.

    Raises DiskInUse if the disk belongs to another machine or is a data volume.
    """
    volume = await find_volume_at(api, wanted.storage_id, wanted.disk_path)
    if volume is None:
        return None
    vm = await vm_by_id(api, volume.vm_id) if volume.vm_id else None
    if vm is not None and vm.is_destroyed:
        raise DiskInUse(
            message=f"{wanted.disk_path} belongs to the destroyed virtual machine {vm.name!r}",
            metadata={"volume": volume.id, "vm": vm.id},
            hint="recover that machine in CloudStack and unmanage it; expunging deletes the disk",
        )
    if vm is None or volume.type != "ROOT" or not _is_called(vm, wanted):
        raise DiskInUse(
            message=f"{wanted.disk_path} is already volume {volume.name!r} of CloudStack",
            metadata={"volume": volume.id, "vm": volume.vm_id},
        )
    return vm


async def _empty_shells(api: CloudStackApi, wanted: VmImport) -> list[Vm]:
    """Stopped machines of that name without a disk: leftovers of imports without a placement."""
    return [
        vm
        for vm in await vms_named(api, wanted.host_name)
        if _is_called(vm, wanted)
        and vm.state == "Stopped"
        and not any(volume.path for volume in vm.volumes)
    ]


def _is_called(vm: Vm, wanted: VmImport) -> bool:
    return vm.name == wanted.host_name and vm.display_name == wanted.display_name


async def _clear(api: CloudStackApi, vm: Vm, job_id: str, sleep: jobs.Sleep) -> None:
    _log.warning("removing a half-imported machine", action="vm.leftover", vm=vm.id, name=vm.name)
    if any(volume.path for volume in vm.volumes):
        command, parameters = "unmanageVirtualMachine", await unmanage_parameters(api, vm)
    else:
        # It cannot be unmanaged: that would define it on a host, which needs a disk.
        command, parameters = "destroyVirtualMachine", {"id": vm.id, "expunge": "true"}
    await api.call(command, {**parameters, "customjobid": job_id})
    await jobs.wait(api, job_id, sleep)
