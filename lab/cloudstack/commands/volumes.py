"""attachVolume, detachVolume, deleteVolume."""

from __future__ import annotations

from typing import Final

from lab.cloudstack.contract import Request
from lab.cloudstack.errors import parameter_error
from lab.cloudstack.store import Row, now_text
from lab.cloudstack.world import World, volume_response

_CDROM_DEVICE: Final = 3
_LAST_DEVICE: Final = 64


def attach_volume(world: World, request: Request) -> Row:
    """Attach a data volume to a VM, at the next free device number or the requested one."""
    with world.store.transaction():
        volume = world.get("volume", request.text("id"))
        vm = world.get("virtualmachine", request.text("virtualmachineid"))
        if volume["type"] != "DATADISK":
            raise parameter_error("Please specify a data volume")
        if volume.get("virtualmachineid"):
            raise parameter_error("Please specify a volume that is not attached to any VM.")
        if vm["state"] not in ("Running", "Stopped"):
            raise parameter_error("Please specify a VM that is either running or stopped.")
        if vm["zoneid"] != volume["zoneid"]:
            raise parameter_error("Please specify a VM that is in the same zone as the volume.")
        if vm["account"] != volume["account"] or vm["domainid"] != volume["domainid"]:
            raise parameter_error("Volume and VM belong to different accounts")
        device = _device(world, vm, request.number("deviceid"))
        volume.update(virtualmachineid=vm["id"], deviceid=device, attached=now_text())
        return {"volume": volume_response(world, volume)}


def detach_volume(world: World, request: Request) -> Row:
    """Detach a data volume, named by its id or by VM and device number."""
    with world.store.transaction():
        volume = _named_volume(world, request)
        if not volume.get("virtualmachineid"):
            raise parameter_error("The specified volume is not attached to a VM.")
        if volume["type"] != "DATADISK":
            raise parameter_error("Please specify a data volume")
        for field in ("virtualmachineid", "deviceid", "attached"):
            volume.pop(field, None)
        return {"volume": volume_response(world, volume)}


def delete_volume(world: World, request: Request) -> Row:
    """Delete a detached volume together with its file."""
    volume = world.get("volume", request.text("id"))
    if volume.get("virtualmachineid"):
        raise parameter_error("Please specify a volume that is not attached to any VM.")
    erase(world, volume)
    return {"success": True}


def erase(world: World, volume: Row) -> None:
    """Remove a volume and delete its image file."""
    path = volume.get("path")
    if path:
        world.image_path(volume["storageid"], path).unlink(missing_ok=True)
    world.store.remove("volume", volume["id"])


def _named_volume(world: World, request: Request) -> Row:
    if request.text("id"):
        return world.get("volume", request.text("id"))
    device = request.number("deviceid")
    for volume in world.volumes_of(request.text("virtualmachineid")):
        if volume["deviceid"] == device:
            return volume
    raise parameter_error("Please provide the id of an attached volume, or a VM and a device")


def _device(world: World, vm: Row, wanted: int | None) -> int:
    used = {int(volume["deviceid"]) for volume in world.volumes_of(vm["id"])}
    if wanted is None:
        return next(
            number
            for number in range(1, _LAST_DEVICE)
            if number != _CDROM_DEVICE and number not in used
        )
    if wanted == _CDROM_DEVICE:
        raise parameter_error("deviceId 3 is reserved for CD-ROM.")
    if wanted in used:
        raise parameter_error(f"deviceId {wanted} is used by vm {vm['id']}")
    return wanted
