"""Import and its reverse: importVm, importVolume, unmanage.

The order of the steps and the texts are those of CloudStack 4.22's
``UnmanagedVMsManagerImpl`` and ``VolumeImportUnmanageManagerImpl``, because the step at
which an import fails decides what is left behind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from lab.cloudstack.commands.listing import answer
from lab.cloudstack.commands.nics import make_nic
from lab.cloudstack.commands.qcow2 import Inspection, NotQcow2Error, inspect
from lab.cloudstack.commands.vm_details import check_details, check_offering
from lab.cloudstack.contract import Request
from lab.cloudstack.errors import ApiError, internal_error, parameter_error
from lab.cloudstack.store import Row, new_id, now_text
from lab.cloudstack.world import World, ownership, tags_fit, vm_response, volume_response

_HOSTNAME: Final = re.compile(r"^(?![0-9-])[A-Za-z0-9-]{1,63}(?<!-)$")
_GIB: Final = 1 << 30
_VM_POOL_TYPES: Final = frozenset({"NetworkFilesystem", "Filesystem"})
_MOUNT_POINT_SINCE: Final = (4, 22, 1, 0)
# Since this version a stopped VM is defined in a host's libvirt before it is unmanaged.
_DOMAIN_KEPT_SINCE: Final = (4, 22)
_VOLUME_POOL_TYPES: Final = _VM_POOL_TYPES | {"RBD"}


def import_vm(world: World, request: Request) -> Row:
    """``importVm`` with a disk in a shared or local pool."""
    owner = world.owner(request)
    host_name = _host_name(request)
    pool = _source_pool(world, request)
    offering = world.get("serviceoffering", request.text("serviceofferingid"))
    if not tags_fit(offering.get("storagetags", ""), pool.get("tags", "")):
        raise parameter_error(
            f"Service offering: {offering['id']} storage tags are not compatible with"
            f" selected storage pool: {pool['id']}"
        )
    details = request.mapping("details")
    check_details(details)
    check_offering(offering, details)
    network = world.get("network", request.text("networkid"))
    if network.get("issystem"):
        raise parameter_error(
            f"Network id={network['id']} is system only and can't be used for vm deployment"
        )
    with world.store.transaction():
        vm = world.store.put(
            "virtualmachine", _new_vm(world, request, owner, offering, host_name, details)
        )
        root = world.store.put("volume", _root_volume(vm, owner, offering))
    return _place_and_attach(world, vm, root, pool, network, request.text("diskpath"))


def _source_pool(world: World, request: Request) -> Row:
    """Check the parameters and the disk; returns the disk's pool."""
    if request.text("hypervisor").lower() != "kvm":
        raise parameter_error(
            f"VM import is currently not supported for hypervisor: {request.text('hypervisor')}"
        )
    source = request.text("importsource").lower()
    if source not in ("shared", "local"):
        raise parameter_error(f"This server imports from shared and local only, not {source}")
    for name, label in (
        ("diskpath", "Disk Path"),
        ("networkid", "Network"),
        ("storageid", "Storage Pool"),
    ):
        if not request.text(name):
            raise parameter_error(f"{label} is required for Import from shared/local storage")
    pool = world.get("storagepool", request.text("storageid"))
    if _volume_at(world, pool, request.text("diskpath")) is not None:
        raise parameter_error("Disk image is already in use")
    if source == "local":
        _check_local(request, pool)
    return pool


def _place_and_attach(world: World, vm: Row, root: Row, pool: Row, network: Row, path: str) -> Row:
    unplaced = world.faults.take("importVm", "no_placement")
    if unplaced or pool["state"] != "Up" or world.is_full(pool):
        # The real server does not clean up on this path.
        raise internal_error(
            f"Import failed for Vm: {vm['instancename']}. Suitable deployment destination not found"
        )
    try:
        image = _check_volume(world, pool, path)
    except ApiError:
        _forget_vm(world, vm)
        raise
    no_address = world.faults.take("importVm", "no_free_ip")
    with world.store.transaction():
        root.update(
            path=path,
            storageid=pool["id"],
            size=image.virtual_size_bytes,
            physicalsize=image.file_size_bytes,
            state="Ready",
        )
        world.store.put("volume", root)
        vm["pooltype"] = pool["type"]
        world.store.put("virtualmachine", vm)
    # From here on a failure leaves the VM and the volume behind, and the path is in use.
    if no_address:
        raise ApiError(533, f"Insufficient address capacity in network {network['id']}")
    with world.store.transaction():
        vm["nic"].append(make_nic(world, vm, network, default=True))
        world.store.put("virtualmachine", vm)
    return {"virtualmachine": vm_response(world, vm)}


def import_volume(world: World, request: Request) -> Row:
    """``importVolume``: import a QCOW2 file of a pool as a data volume."""
    pool = world.get("storagepool", request.text("storageid"))
    owner = world.owner(request)
    path = request.text("path")
    _check_pool_for_volumes(pool)
    if _volume_at(world, pool, path) is not None:
        raise internal_error(f"Volume is already managed by CloudStack: {path}")
    image = _image_for_import(world, pool, path)
    offering = _disk_offering(world, request, pool)
    # Without an offering the server uses its default custom offering.
    if offering is None or offering["iscustomized"]:
        _check_custom_size(world, image)
    with world.store.transaction():
        if _volume_at(world, pool, path) is not None:
            raise internal_error(f"Volume is already managed by CloudStack: {path}")
        volume = world.store.put(
            "volume",
            {
                "id": new_id(),
                "name": request.text("name") or path,
                "type": "DATADISK",
                "state": "Ready",
                "path": path,
                "storageid": pool["id"],
                "size": image.virtual_size_bytes,
                "physicalsize": image.file_size_bytes,
                "zoneid": pool["zoneid"],
                "zonename": pool["zonename"],
                "hypervisor": "KVM",
                "provisioningtype": "thin",
                "created": now_text(),
                **ownership(owner),
                **(
                    {"diskofferingid": offering["id"], "diskofferingname": offering["name"]}
                    if offering
                    else {"diskofferingname": "Default Custom Offering for Volume Import"}
                ),
            },
        )
    return {"volume": volume_response(world, volume)}


def list_volumes_for_import(world: World, request: Request) -> Row:
    """The image files of a pool that no volume uses."""
    pool = world.get("storagepool", request.text("storageid"))
    _check_pool_for_volumes(pool)
    wanted, keyword = request.text("path"), request.text("keyword")
    rows: list[Row] = []
    directory = world.pool_directories[pool["id"]]
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        if wanted not in ("", path.name) or keyword not in path.name or not path.is_file():
            continue
        if _volume_at(world, pool, path.name) is not None:
            continue
        try:
            image = inspect(path)
        except NotQcow2Error:
            continue
        rows.append(
            {
                "name": path.name,
                "path": path.name,
                "fullpath": str(path),
                "format": "qcow2",
                "size": image.file_size_bytes,
                "virtualsize": image.virtual_size_bytes,
                "storageid": pool["id"],
                "storage": pool["name"],
                "storagetype": pool["type"],
                "details": {"isLocked": str(image.locked).lower()},
            }
        )
    return answer(request, rows)


def unmanage_volume(world: World, request: Request) -> Row:
    """``unmanageVolume``: remove a detached volume, keep its file."""
    volume = world.get("volume", request.text("id"))
    if volume.get("virtualmachineid"):
        raise internal_error(f"Volume is attached to a VM: {volume['id']}")
    pool = world.get("storagepool", volume["storageid"])
    _image_for_import(world, pool, volume["path"])
    world.store.remove("volume", volume["id"])
    return {"success": True}


def unmanage_vm(world: World, request: Request) -> Row:
    """``unmanageVirtualMachine``: remove a VM and its volumes, keep the files."""
    vm = world.get("virtualmachine", request.text("id"))
    if vm["state"] not in ("Running", "Stopped"):
        raise parameter_error(f"VM with id = {vm['id']} must be running or stopped to be unmanaged")
    if vm["state"] == "Stopped" and world.version() >= _DOMAIN_KEPT_SINCE:
        host = request.text("hostid") or vm.get("lasthostid") or _host_of_volumes(world, vm)
        if not host:
            raise internal_error(
                f"No available host to persist domain XML for Instance: {vm['name']}"
            )
    _forget_vm(world, vm)
    return {"success": True}


def _host_of_volumes(world: World, vm: Row) -> str:
    """A host of the cluster of a ready volume's pool, "" if all pools are zone-wide."""
    for volume in world.volumes_of(vm["id"]):
        pool = world.store.find("storagepool", volume.get("storageid", ""))
        if volume["state"] == "Ready" and pool is not None and pool.get("clusterid"):
            for host in world.store.rows("host"):
                if host["clusterid"] == pool["clusterid"]:
                    return str(host["id"])
    return ""


def _forget_vm(world: World, vm: Row) -> None:
    with world.store.transaction():
        for volume in world.volumes_of(vm["id"]):
            world.store.remove("volume", volume["id"])
        world.store.remove("virtualmachine", vm["id"])


def _host_name(request: Request) -> str:
    given = request.text("hostname")
    if not given and not _HOSTNAME.match(request.text("name")):
        raise parameter_error(
            "Please provide hostname for the VM. VM name contains unsupported characters"
            " for it to be used as hostname"
        )
    name = given or request.text("name")
    if not _HOSTNAME.match(name):
        raise parameter_error(
            "Invalid VM hostname. VM hostname can contain ASCII letters 'a' through 'z',"
            " the digits '0' through '9', and the hyphen ('-'), must be between 1 and 63"
            " characters long, and can't start or end with \"-\" and can't start with digit"
        )
    return name


def _check_local(request: Request, pool: Row) -> None:
    if not request.text("hostid"):
        raise parameter_error("Host is required for Import from local storage")
    if pool.get("hostid") != request.text("hostid"):
        raise parameter_error("Specified Local Storage Pool not found on Host")


def _check_volume(world: World, pool: Row, path: str) -> Inspection:
    """The checks of the KVM agent's CheckVolumeCommand."""
    supported = _VM_POOL_TYPES
    if world.version() >= _MOUNT_POINT_SINCE:
        supported |= {"SharedMountPoint"}
    if pool["type"] not in supported:
        raise internal_error("Disk not found or is invalid")
    try:
        image = inspect(world.image_path(pool["id"], path))
    except NotQcow2Error as error:
        raise internal_error("Disk not found or is invalid") from error
    _check_image(image)
    if not image.importable:
        raise internal_error("Disk not found or is invalid")
    return image


def _image_for_import(world: World, pool: Row, path: str) -> Inspection:
    try:
        image = inspect(world.image_path(pool["id"], path))
    except (NotQcow2Error, ApiError) as error:
        raise internal_error(f"Cannot find volume on storage pool: {path}") from error
    _check_image(image)
    if not image.importable:
        raise internal_error(f"Volume cannot be imported due to an unsupported image: {path}")
    return image


def _check_image(image: Inspection) -> None:
    if image.locked:
        raise internal_error("Locked volume cannot be imported or unmanaged.")
    if image.encrypted:
        raise internal_error("Encrypted volume cannot be imported or unmanaged.")
    if image.has_backing_file:
        raise internal_error("Volume with backing file cannot be imported or unmanaged.")


def _check_pool_for_volumes(pool: Row) -> None:
    if pool["state"] != "Up":
        raise internal_error(f"Storage pool {pool['name']} is not Up: {pool['state']}")
    # The real command supports RBD pools; this server has no Ceph.
    if pool["type"] not in _VOLUME_POOL_TYPES | {"SharedMountPoint"} or pool["type"] == "RBD":
        raise internal_error(
            "Importing and unmanaging volume are not supported for pool type"
            f" {pool['type']} on hypervisor KVM"
        )


def _disk_offering(world: World, request: Request, pool: Row) -> Row | None:
    if not request.text("diskofferingid"):
        return None
    offering = world.get("diskoffering", request.text("diskofferingid"))
    label = f"Disk offering {offering['id']}"
    local = pool["scope"] == "HOST"
    if offering["state"] != "Active":
        raise internal_error(f"{label} is not active")
    if (offering["storagetype"] == "local") != local:
        raise internal_error(f"{label} should use {'local' if local else 'shared'} storage")
    if offering["encrypt"]:
        raise internal_error(f"{label} should not support volume encryption")
    if not tags_fit(offering.get("tags", ""), pool.get("tags", "")):
        raise internal_error(
            f"Disk offering: {offering['id']} storage tags are not compatible with selected"
            f" storage pool: {pool['id']}"
        )
    return offering


def _check_custom_size(world: World, image: Inspection) -> None:
    low, high = world.custom_disk_limits_gib()
    gib = image.virtual_size_bytes // _GIB  # floored, as the real server does
    if not low <= gib <= high:
        raise parameter_error(
            f"Volume size: {gib} GB is out of allowed range. Min: {low}. Max: {high}"
        )


def _volume_at(world: World, pool: Row, path: str) -> Row | None:
    for volume in world.store.rows("volume"):
        if volume.get("storageid") == pool["id"] and volume.get("path") == path:
            return volume
    return None


def _new_vm(
    world: World,
    request: Request,
    owner: Row,
    offering: Row,
    host_name: str,
    details: Mapping[str, str],
) -> Row:
    zone = world.get("zone", request.text("zoneid"))
    number = world.store.next_number("vm")
    return {
        "id": new_id(),
        "number": number,
        "name": host_name,
        "displayname": request.text("displayname") or request.text("name"),
        "instancename": f"i-2-{number}-VM",
        "state": "Stopped",
        "hypervisor": "KVM",
        "zoneid": zone["id"],
        "zonename": zone["name"],
        "templatename": "kvm-default-vm-import-dummy-template",
        "serviceofferingid": offering["id"],
        "serviceofferingname": offering["name"],
        "details": dict(details),
        "nic": [],
        "haenable": False,
        "vmtype": "User",
        "created": now_text(),
        **ownership(owner),
    }


def _root_volume(vm: Row, owner: Row, offering: Row) -> Row:
    return {
        "id": new_id(),
        "name": f"ROOT-{vm['number']}",
        "type": "ROOT",
        "state": "Allocated",
        "deviceid": 1,
        "virtualmachineid": vm["id"],
        "zoneid": vm["zoneid"],
        "zonename": vm["zonename"],
        "hypervisor": "KVM",
        "provisioningtype": "thin",
        "serviceofferingid": offering["id"],
        "serviceofferingname": offering["name"],
        "size": 0,
        "created": now_text(),
        **ownership(owner),
    }
