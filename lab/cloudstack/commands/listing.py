"""The list commands: filters, ownership and paging."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from lab.cloudstack.contract import Request, load_contract
from lab.cloudstack.errors import parameter_error
from lab.cloudstack.store import Row
from lab.cloudstack.world import (
    ADMIN,
    World,
    matches,
    present,
    tags_fit,
    vm_response,
    volume_response,
)

PAGE_LIMIT: Final = 500

# Parameters that are compared with the field of the same name, by command. As on the
# real server, `name` matches substrings in listVirtualMachines and exactly elsewhere.
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "listzones": ("id", "name", "networktype"),
    "listclusters": ("id", "name", "zoneid", "podid", "allocationstate", "managedstate"),
    "listhosts": ("id", "name", "zoneid", "podid", "clusterid", "state", "type", "resourcestate"),
    "liststoragepools": ("id", "name", "zoneid", "ipaddress", "path", "scope"),
    "listnetworks": ("id", "name", "zoneid", "type", "traffictype", "vlan", "acltype"),
    "listserviceofferings": ("id", "name", "state", "storagetype", "cpunumber", "memory"),
    "listdiskofferings": ("id", "name", "state", "storagetype"),
    "listostypes": ("id", "description", "oscategoryid"),
    "listdomains": ("id", "name", "level"),
    "listaccounts": ("id", "name", "domainid", "state", "accounttype"),
    "listvirtualmachines": (
        "id",
        "zoneid",
        "state",
        "account",
        "domainid",
        "hypervisor",
        "serviceofferingid",
    ),
    "listvolumes": (
        "id",
        "name",
        "zoneid",
        "state",
        "type",
        "storageid",
        "virtualmachineid",
        "account",
        "domainid",
        "diskofferingid",
    ),
    "listasyncjobs": ("account", "domainid"),
}
_TABLES: Final[Mapping[str, str]] = {
    "listzones": "zone",
    "listclusters": "cluster",
    "listhosts": "host",
    "liststoragepools": "storagepool",
    "listnetworks": "network",
    "listserviceofferings": "serviceoffering",
    "listdiskofferings": "diskoffering",
    "listostypes": "ostype",
    "listdomains": "domain",
    "listaccounts": "account",
    "listvirtualmachines": "virtualmachine",
    "listvolumes": "volume",
    "listasyncjobs": "job",
}
# Commands that, without listall, list only what the caller's account owns.
_OWNED: Final = frozenset({"listvirtualmachines", "listvolumes", "listasyncjobs"})
_KEYWORD_FIELDS: Final = ("name", "displayname", "displaytext", "description", "state")


def run_list(world: World, request: Request) -> Row:
    """Answer any list command of the tables above."""
    name = request.command.name.lower()
    rows = [
        row
        for row in world.store.rows(_TABLES[name])
        if _selected(request, name, row) and _special(world, request, name, row)
    ]
    return answer(request, rows, lambda row: _expand(world, name, row))


def answer(
    request: Request, rows: list[Row], expand: Callable[[Row], Row] = lambda row: row
) -> Row:
    """The requested page of ``rows``; the answer for an empty list is an empty object.

    ``expand`` adds computed fields to each row of the page.
    """
    size = request.number("pagesize")
    page = request.number("page") or 1
    if size is not None and size > PAGE_LIMIT:
        raise parameter_error(
            f"The value {size} for page size exceeds the max allowed page size value: {PAGE_LIMIT}"
        )
    size = size or PAGE_LIMIT
    shown = rows[(page - 1) * size : page * size]
    if not shown:
        return {}
    return {
        "count": len(rows),
        request.command.list_key: [present(request.command, expand(row)) for row in shown],
    }


def list_nics(world: World, request: Request) -> Row:
    """The NICs of one VM."""
    vm = world.get("virtualmachine", request.text("virtualmachineid"))
    wanted, network = request.text("nicid"), request.text("networkid")
    nics = [
        nic for nic in vm["nic"] if wanted in ("", nic["id"]) and network in ("", nic["networkid"])
    ]
    return answer(request, nics)


def list_capabilities(world: World, request: Request) -> Row:
    """The server's version and feature flags."""
    del request
    low, high = world.custom_disk_limits_gib()
    return {
        "capability": {
            "cloudstackversion": world.get("setting", "version")["value"],
            "securitygroupsenabled": False,
            "dynamicrolesenabled": True,
            "kvmsnapshotenabled": False,
            "customdiskofferingminsize": low,
            "customdiskofferingmaxsize": high,
            "apilimitinterval": 1,
            "apilimitmax": 25,
        }
    }


def list_apis(world: World, request: Request) -> Row:
    """The commands that the caller may use: all, except those a test has removed."""
    denied = world.get("setting", "denied.commands")["value"].lower().split(",")
    wanted = request.text("name").lower()
    rows = [
        {"name": command.name, "isasync": command.is_async}
        for key, command in load_contract().items()
        if wanted in ("", key) and key not in denied
    ]
    return answer(request, rows)


def _selected(request: Request, name: str, row: Row) -> bool:
    for field in _FIELDS[name]:
        value = request.values.get(field)
        if value is not None and str(row.get(field, "")).lower() != str(value).lower():
            return False
    ids = request.texts("ids")
    if ids and row["id"] not in ids:
        return False
    keyword = request.text("keyword")
    if keyword and not matches(row, keyword, _KEYWORD_FIELDS):
        return False
    if name in _OWNED and not (request.flag("listall") or request.text("account")):
        return row.get("account") == ADMIN
    return True


def _special(world: World, request: Request, name: str, row: Row) -> bool:
    check: Callable[[World, Request, Row], bool] | None = {
        "liststoragepools": _pool_selected,
        "listvirtualmachines": _vm_selected,
        "listdiskofferings": _offering_selected,
        "listclusters": _cluster_selected,
    }.get(name)
    return check is None or check(world, request, row)


def _pool_selected(world: World, request: Request, row: Row) -> bool:
    # Seen on real systems: a list by id lacks a pool that the full list has.
    if request.text("id") and row.get("hidden_by_id"):
        return False
    cluster = request.text("clusterid")
    host = request.text("hostid")
    if host and row.get("hostid", host) != host:
        return False
    # A zone-wide pool belongs to no cluster, so a list by cluster does not have it.
    return not cluster or row.get("clusterid") == cluster


def _vm_selected(world: World, request: Request, row: Row) -> bool:
    wanted = request.text("name")
    if wanted and wanted.lower() not in row["name"].lower():
        return False
    network = request.text("networkid")
    if network and all(nic["networkid"] != network for nic in row["nic"]):
        return False
    storage = request.text("storageid")
    return not storage or any(v["storageid"] == storage for v in world.volumes_of(row["id"]))


def _offering_selected(world: World, request: Request, row: Row) -> bool:
    storage = request.text("storageid")
    if not storage:
        return True
    return tags_fit(row.get("tags", ""), world.get("storagepool", storage).get("tags", ""))


def _cluster_selected(world: World, request: Request, row: Row) -> bool:
    hypervisor = request.text("hypervisor")
    return not hypervisor or row["hypervisortype"].lower() == hypervisor.lower()


def _expand(world: World, name: str, row: Row) -> Row:
    if name == "listvirtualmachines":
        return vm_response(world, row)
    if name == "listvolumes":
        return volume_response(world, row)
    if name == "liststoragepools":
        capacity, used = world.pool_usage(row)
        return {
            **row,
            "disksizetotal": capacity,
            "disksizeused": used,
            "disksizeallocated": sum(
                int(volume.get("size", 0))
                for volume in world.store.rows("volume")
                if volume.get("storageid") == row["id"]
            ),
        }
    return row
