"""Data disks: import as a volume, attach, unmanage."""

from __future__ import annotations

from services.cloudstack_agent import jobs
from services.cloudstack_agent.client.api import CloudStackApi
from services.cloudstack_agent.errors import (
    DiskInUse,
    RequestInvalid,
    VolumeAttached,
    VolumeNotFound,
)
from services.cloudstack_agent.inventory import find_volume_at, volume_by_id


async def start_volume_import(
    api: CloudStackApi,
    job_id: str,
    *,
    storage_id: str,
    path: str,
    name: str,
    disk_offering_id: str = "",
) -> jobs.Job:
    """Import the file `path` of a pool's root as a volume; see `jobs.start`.

    Raises RequestInvalid, DiskInUse when the file is a root disk, and CloudStack's refusals.
    """
    if "/" in path:
        raise RequestInvalid(message=f"path {path!r} is no bare file name")

    async def effect() -> str | None:
        volume = await find_volume_at(api, storage_id, path)
        if volume is None:
            return None
        if volume.type != "DATADISK":
            raise DiskInUse(
                message=f"{path} is already the {volume.type} volume {volume.name!r} of CloudStack",
                metadata={"volume": volume.id, "vm": volume.vm_id},
            )
        return volume.id

    parameters = {"storageid": storage_id, "path": path}
    if name:
        parameters["name"] = name
    if disk_offering_id:
        parameters["diskofferingid"] = disk_offering_id
    return await jobs.start(api, "importVolume", parameters, job_id=job_id, effect=effect)


async def start_volume_attach(
    api: CloudStackApi, job_id: str, *, volume_id: str, vm_id: str
) -> jobs.Job:
    """Attach a volume; see `jobs.start`.

    CloudStack chooses the device number: 3 is the CD-ROM, and importVm gave 1 to the root volume.
    Raises VolumeNotFound, VolumeAttached if another machine has it, and CloudStack's refusals.
    """

    async def effect() -> str | None:
        volume = await volume_by_id(api, volume_id)
        if volume.vm_id == vm_id:
            return volume.id
        if volume.vm_id:
            raise VolumeAttached(
                message=f"volume {volume.name!r} is attached to virtual machine {volume.vm_id}",
                metadata={"volume": volume.id, "vm": volume.vm_id},
            )
        return None

    return await jobs.start(
        api,
        "attachVolume",
        {"id": volume_id, "virtualmachineid": vm_id},
        job_id=job_id,
        effect=effect,
        resource_id=volume_id,
    )


async def start_volume_unmanage(api: CloudStackApi, job_id: str, *, volume_id: str) -> jobs.Job:
    """Unmanage a detached volume, if it exists; its file is kept.

    Raises VolumeAttached, and CloudStack's refusals.
    """

    async def effect() -> str | None:
        try:
            volume = await volume_by_id(api, volume_id)
        except VolumeNotFound:
            return volume_id
        if volume.vm_id:
            raise VolumeAttached(
                message=f"volume {volume.name!r} is attached to virtual machine {volume.vm_id}",
                metadata={"volume": volume.id, "vm": volume.vm_id},
                hint="unmanage the virtual machine: that unmanages the volume and keeps its file",
            )
        return None

    return await jobs.start(
        api,
        "unmanageVolume",
        {"id": volume_id},
        job_id=job_id,
        effect=effect,
        resource_id=volume_id,
    )
