"""Commands on a VM: update, start, stop, destroy, expunge."""

from __future__ import annotations

from lab.cloudstack.commands.qcow2 import NotQcow2Error, inspect
from lab.cloudstack.commands.vm_details import check_details, check_offering
from lab.cloudstack.commands.volumes import erase
from lab.cloudstack.contract import Request
from lab.cloudstack.errors import CAPACITY, ApiError, internal_error, parameter_error
from lab.cloudstack.store import Row, now_text
from lab.cloudstack.world import World, vm_response


def update_vm(world: World, request: Request) -> Row:
    """``updateVirtualMachine``: the given details replace all present details.

    The real server accepts details of a running VM and applies them at its next
    start. Strict mode refuses them: a migration has to set them before the first start.
    """
    with world.store.transaction():
        vm = world.get("virtualmachine", request.text("id"))
        details = request.mapping("details")
        if vm["state"] != "Stopped" and (details or request.text("ostypeid")):
            raise parameter_error("details and ostypeid are set while stopped (strict mode)")
        if request.flag("cleanupdetails"):
            vm["details"] = {}
        elif details:
            check_details(details)
            vm["details"] = details
        for field, name in (
            ("displayname", "displayname"),
            ("name", "name"),
            ("group", "group"),
            ("guestosid", "ostypeid"),
            ("ostypeid", "ostypeid"),
        ):
            if request.text(name):
                vm[field] = request.text(name)
        if request.text("ostypeid"):
            vm["osdisplayname"] = world.get("ostype", request.text("ostypeid"))["name"]
        if "haenable" in request.values:
            vm["haenable"] = request.flag("haenable")
        vm["lastupdated"] = now_text()
        return {"virtualmachine": vm_response(world, vm)}


def start_vm(world: World, request: Request) -> Row:
    """``startVirtualMachine``: refuses a VM that a host could not boot."""
    with world.store.transaction():
        vm = world.get("virtualmachine", request.text("id"))
        if vm["state"] == "Running":
            return {"virtualmachine": vm_response(world, vm)}
        if vm["state"] != "Stopped":
            raise internal_error(f"Unable to start VM {vm['instancename']} in {vm['state']} state")
        check_offering(world.get("serviceoffering", vm["serviceofferingid"]), vm["details"])
        if not vm["nic"]:
            raise internal_error(f"Unable to start a VM without a NIC: {vm['instancename']}")
        volumes = world.volumes_of(vm["id"])
        if not any(volume["type"] == "ROOT" for volume in volumes):
            raise internal_error(f"Unable to start a VM without a root volume: {vm['id']}")
        for volume in volumes:
            _check_bootable(world, vm, volume)
        host = next(h for h in world.store.rows("host") if h["zoneid"] == vm["zoneid"])
        vm.update(state="Running", hostid=host["id"], hostname=host["name"], lasthostid=host["id"])
        return {"virtualmachine": vm_response(world, vm)}


def stop_vm(world: World, request: Request) -> Row:
    """``stopVirtualMachine``."""
    with world.store.transaction():
        vm = world.get("virtualmachine", request.text("id"))
        vm["state"] = "Stopped"
        return {"virtualmachine": vm_response(world, vm)}


def destroy_vm(world: World, request: Request) -> Row:
    """``destroyVirtualMachine``: with ``expunge`` the root disk's file is deleted too."""
    with world.store.transaction():
        vm = world.get("virtualmachine", request.text("id"))
        vm["state"] = "Destroyed"
        response = vm_response(world, vm)
        attached = {volume["id"] for volume in world.volumes_of(vm["id"])}
        unknown = set(request.texts("volumeids")) - attached
        if unknown:
            raise parameter_error(f"Volumes are not attached to the VM: {', '.join(unknown)}")
        if request.flag("expunge"):
            _expunge(world, vm, frozenset(request.texts("volumeids")))
        return {"virtualmachine": response}


def expunge_vm(world: World, request: Request) -> Row:
    """``expungeVirtualMachine``: remove a destroyed VM for good."""
    with world.store.transaction():
        vm = world.get("virtualmachine", request.text("id"))
        if vm["state"] not in ("Destroyed", "Expunging", "Error"):
            raise parameter_error("Please destroy vm with specified vmId before expunge")
        _expunge(world, vm, frozenset())
        return {"success": True}


def _expunge(world: World, vm: Row, data_volumes: frozenset[str]) -> None:
    for volume in world.volumes_of(vm["id"]):
        if volume["type"] == "ROOT" or volume["id"] in data_volumes:
            erase(world, volume)
        else:
            for field in ("virtualmachineid", "deviceid", "attached"):
                volume.pop(field, None)
    world.store.remove("virtualmachine", vm["id"])


def _check_bootable(world: World, vm: Row, volume: Row) -> None:
    reason = ""
    try:
        image = inspect(world.image_path(volume["storageid"], volume["path"]))
    except (NotQcow2Error, KeyError) as error:
        reason = str(error)
    else:
        if image.locked:
            reason = f"{volume['path']}: another process holds the image's lock"
        elif image.corrupt:
            reason = f"{volume['path']}: the image is marked corrupt"
    if reason:
        # The hypervisor's own text is only in the agent's log.
        raise ApiError(
            CAPACITY,
            f"Unable to create a deployment for VM instance {vm['instancename']} ({reason})",
        )
