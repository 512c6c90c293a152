"""NICs: their addresses; adding and removing them; choosing the default NIC."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from lab.cloudstack.contract import Request
from lab.cloudstack.errors import CAPACITY, ApiError, internal_error, parameter_error
from lab.cloudstack.store import Row, new_id
from lab.cloudstack.world import World, vm_response

_MAC: Final = re.compile(r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$")


def make_nic(
    world: World, vm: Row, network: Row, *, mac: str = "", ip: str = "", default: bool = False
) -> Row:
    """Create a NIC of ``vm`` on ``network``, with generated addresses where none is given.

    Raises:
        ApiError: 533 when the network has no free address, 431 for an invalid one.
    """
    nic: Row = {
        "id": new_id(),
        "networkid": network["id"],
        "networkname": network["name"],
        "traffictype": "Guest",
        "type": network["type"],
        "isdefault": default,
        "macaddress": _mac(world, network, mac),
        "deviceid": str(_free_device(vm)),
        "virtualmachineid": vm["id"],
    }
    if network["type"] != "L2":
        nic |= {
            "ipaddress": _address(world, network, ip),
            "gateway": network["gateway"],
            "netmask": network["netmask"],
        }
    elif ip:
        raise parameter_error(f"Network {network['id']} does not support ip addresses")
    return nic


def add_nic(world: World, request: Request) -> Row:
    """``addNicToVirtualMachine``."""
    with world.store.transaction():
        vm = world.get("virtualmachine", request.text("virtualmachineid"))
        network = world.get("network", request.text("networkid"))
        if network["zoneid"] != vm["zoneid"]:
            raise parameter_error("Network is not in the zone of the instance")
        if any(nic["networkid"] == network["id"] for nic in vm["nic"]):
            raise internal_error(
                f"A NIC already exists for VM:{vm['instancename']} in network: {network['id']}"
            )
        vm["nic"].append(
            make_nic(
                world,
                vm,
                network,
                mac=request.text("macaddress").lower(),
                ip=request.text("ipaddress"),
                default=not vm["nic"],
            )
        )
        return {"virtualmachine": vm_response(world, vm)}


def remove_nic(world: World, request: Request) -> Row:
    """``removeNicFromVirtualMachine``: remove a NIC that is not the default one."""
    with world.store.transaction():
        vm, nic = _vm_and_nic(world, request)
        if nic["isdefault"]:
            raise parameter_error(
                f"Unable to remove NIC from {vm['instancename']} in network"
                f" {nic['networkid']}, NIC is default."
            )
        vm["nic"].remove(nic)
        return {"virtualmachine": vm_response(world, vm)}


def update_default_nic(world: World, request: Request) -> Row:
    """``updateDefaultNicForVirtualMachine``."""
    with world.store.transaction():
        vm, nic = _vm_and_nic(world, request)
        if nic["isdefault"]:
            raise parameter_error("NIC is already the default for this instance")
        for other in vm["nic"]:
            other["isdefault"] = other is nic
        return {"virtualmachine": vm_response(world, vm)}


def update_nic_ip(world: World, request: Request) -> Row:
    """``updateVmNicIp``: change the address of a stopped VM's NIC."""
    with world.store.transaction():
        for vm in world.store.rows("virtualmachine"):
            for nic in vm["nic"]:
                if nic["id"] == request.text("nicid"):
                    network = world.get("network", nic["networkid"])
                    nic["ipaddress"] = _address(world, network, request.text("ipaddress"))
                    return {"virtualmachine": vm_response(world, vm)}
    raise parameter_error("There is no nic for this id")


def _vm_and_nic(world: World, request: Request) -> tuple[Row, Row]:
    vm = world.get("virtualmachine", request.text("virtualmachineid"))
    for nic in vm["nic"]:
        if nic["id"] == request.text("nicid"):
            return vm, nic
    raise parameter_error(f"{request.text('nicid')} is not a nic on {vm['name']}")


def _free_device(vm: Row) -> int:
    used = {int(nic["deviceid"]) for nic in vm["nic"]}
    return next(number for number in range(len(used) + 1) if number not in used)


def _mac(world: World, network: Row, wanted: str) -> str:
    if not wanted:
        number = world.store.next_number("mac")
        return f"02:01:00:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
    if not _MAC.match(wanted):
        raise parameter_error(f"Mac address is not valid: {wanted}")
    if any(nic["macaddress"] == wanted for nic in _nics_in(world, network)):
        raise parameter_error(f"A NIC with this MAC address exists for network: {network['id']}")
    return wanted


def _address(world: World, network: Row, wanted: str) -> str:
    first = ipaddress.IPv4Address(network["first_ip"])
    last = ipaddress.IPv4Address(network["last_ip"])
    used = {nic.get("ipaddress") for nic in _nics_in(world, network)}
    if wanted:
        try:
            address = ipaddress.IPv4Address(wanted)
        except ValueError as error:
            raise parameter_error(f"Invalid IP address {wanted}") from error
        if not first <= address <= last or wanted in used:
            raise ApiError(
                CAPACITY,
                f"Unable to acquire Guest IP address for network {network['id']}: {wanted}",
            )
        return wanted
    for number in range(int(first), int(last) + 1):
        text = str(ipaddress.IPv4Address(number))
        if text not in used:
            return text
    raise ApiError(CAPACITY, f"Insufficient address capacity in network {network['id']}")


def _nics_in(world: World, network: Row) -> list[Row]:
    return [
        nic
        for vm in world.store.rows("virtualmachine")
        for nic in vm["nic"]
        if nic["networkid"] == network["id"]
    ]
