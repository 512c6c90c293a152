"""Adapters, settings and power of an imported machine, and unmanaging it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from services.cloudstack_agent import jobs
from services.cloudstack_agent.client.api import CloudStackApi, list_rows, text
from services.cloudstack_agent.connection import server_version, version_numbers
from services.cloudstack_agent.errors import (
    NicConflict,
    RequestInvalid,
    VmNotFound,
    VmNotStopped,
)
from services.cloudstack_agent.inventory import Vm, vm_by_id

# The first version with unmanageVirtualMachine's parameter hostid.
_HOST_PARAMETER_SINCE: Final = (4, 22)
_MAC: Final = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")


async def start_nic_add(
    api: CloudStackApi, job_id: str, *, vm_id: str, network_id: str, mac: str = ""
) -> jobs.Job:
    """Add an adapter with the address `mac`, or if it is "" one of CloudStack's; see `jobs.start`.

    Raises RequestInvalid, VmNotFound, NicConflict if the machine has an adapter with another MAC
    address on that network, and CloudStack's refusals.
    """
    mac = mac.lower()
    if mac and not _MAC.fullmatch(mac):
        raise RequestInvalid(message=f"{mac!r} is no MAC address")

    async def effect() -> str | None:
        vm = await vm_by_id(api, vm_id)
        for nic in vm.nics:
            if nic.network_id != network_id:
                continue
            if mac in ("", nic.mac):
                return vm.id
            raise NicConflict(
                message=f"{vm.display_name!r} has the adapter {nic.mac} on network {network_id}",
                metadata={"vm": vm.id, "nic": nic.id, "network": network_id},
            )
        return None

    parameters = {"virtualmachineid": vm_id, "networkid": network_id}
    if mac:
        parameters["macaddress"] = mac
    return await jobs.start(
        api,
        "addNicToVirtualMachine",
        parameters,
        job_id=job_id,
        effect=effect,
        resource_id=vm_id,
    )


async def start_vm_start(api: CloudStackApi, job_id: str, *, vm_id: str) -> jobs.Job:
    """Start a machine, unless it runs. Raises VmNotFound and CloudStack's refusals."""

    async def effect() -> str | None:
        return vm_id if (await vm_by_id(api, vm_id)).state == "Running" else None

    return await jobs.start(
        api,
        "startVirtualMachine",
        {"id": vm_id},
        job_id=job_id,
        effect=effect,
        resource_id=vm_id,
    )


async def start_vm_stop(
    api: CloudStackApi, job_id: str, *, vm_id: str, forced: bool = False
) -> jobs.Job:
    """Stop a machine, unless it is stopped; if `forced`, power it off at once."""

    async def effect() -> str | None:
        return vm_id if (await vm_by_id(api, vm_id)).state == "Stopped" else None

    parameters = {"id": vm_id, "forced": "true"} if forced else {"id": vm_id}
    return await jobs.start(
        api,
        "stopVirtualMachine",
        parameters,
        job_id=job_id,
        effect=effect,
        resource_id=vm_id,
    )


async def start_vm_unmanage(api: CloudStackApi, job_id: str, *, vm_id: str) -> jobs.Job:
    """Unmanage a stopped machine and its volumes, if it exists; the files are kept.

    Raises VmNotStopped for a running machine: CloudStack would unmanage it, but its process would
    continue to write to the disks.
    """

    async def effect() -> str | None:
        try:
            vm = await vm_by_id(api, vm_id)
        except VmNotFound:
            return vm_id
        _require_stopped(vm)
        return None

    async def parameters() -> dict[str, str]:
        return await unmanage_parameters(api, await vm_by_id(api, vm_id))

    return await jobs.start(
        api,
        "unmanageVirtualMachine",
        parameters,
        job_id=job_id,
        effect=effect,
        resource_id=vm_id,
    )


async def unmanage_parameters(api: CloudStackApi, vm: Vm) -> dict[str, str]:
    """unmanageVirtualMachine's parameters for a stopped machine.

    Since 4.22 CloudStack first defines the machine in a host's libvirt. For a machine that never
    ran, with disks on a zone-wide pool, it finds no host ("No available host to persist domain
    XML"), so a host is given.
    """
    if version_numbers(await server_version(api)) < _HOST_PARAMETER_SINCE:
        return {"id": vm.id}
    hosts = await list_rows(
        api,
        "listHosts",
        "host",
        {"zoneid": vm.zone_id, "type": "Routing", "hypervisor": "KVM", "state": "Up"},
    )
    pools = {volume.storage_id for volume in vm.volumes if volume.storage_id}
    clusters = {
        text(row, "clusterid")
        for row in await list_rows(api, "listStoragePools", "storagepool")
        if text(row, "id") in pools and text(row, "clusterid")
    }
    for host in hosts:
        if not clusters or text(host, "clusterid") in clusters:
            return {"id": vm.id, "hostid": text(host, "id")}
    return {"id": vm.id}


async def update_vm(
    api: CloudStackApi,
    vm_id: str,
    *,
    os_type_id: str = "",
    display_name: str = "",
    details: Mapping[str, str] | None = None,
) -> Vm:
    """Set the given values, unless the machine has them already; returns the machine.

    ``updateVirtualMachine`` replaces all displayable details, so the present ones are read, merged
    with the new ones and written back. The OS type is set here because importVm ignores it for
    disks of a pool.

    Raises VmNotFound, VmNotStopped for details or an OS type, and CloudStack's refusals.
    """
    vm = await vm_by_id(api, vm_id)
    merged = {**vm.details, **(details or {})}
    parameters: dict[str, str] = {}
    if os_type_id and os_type_id != vm.os_type_id:
        parameters["ostypeid"] = os_type_id
    if merged != vm.details:
        parameters |= {f"details[0].{key}": value for key, value in merged.items()}
    if parameters:
        _require_stopped(vm)
    if display_name and display_name != vm.display_name:
        parameters["displayname"] = display_name
    if not parameters:
        return vm
    await api.call("updateVirtualMachine", {"id": vm_id, **parameters})
    return await vm_by_id(api, vm_id)


def _require_stopped(vm: Vm) -> None:
    if vm.state != "Stopped":
        raise VmNotStopped(
            message=f"virtual machine {vm.display_name!r} is {vm.state}",
            metadata={"vm": vm.id, "state": vm.state},
        )
