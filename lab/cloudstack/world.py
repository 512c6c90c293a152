"""The data centre behind the API: look-ups, owners, and responses made from rows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.cloudstack.contract import Command, Request
from lab.cloudstack.errors import internal_error, parameter_error
from lab.cloudstack.faults import FaultTable
from lab.cloudstack.store import Row, Store

ADMIN: Final = "admin"
_FULL_PERCENT: Final = 85  # pool.storage.capacity.disablethreshold
# The table that a parameter of type uuid refers to. For `id` it depends on the command.
_TABLE_OF_PARAMETER: Final[Mapping[str, str]] = {
    "zoneid": "zone",
    "clusterid": "cluster",
    "hostid": "host",
    "storageid": "storagepool",
    "networkid": "network",
    "serviceofferingid": "serviceoffering",
    "diskofferingid": "diskoffering",
    "ostypeid": "ostype",
    "virtualmachineid": "virtualmachine",
    "domainid": "domain",
}
_TABLE_OF_ID: Final[Mapping[str, str]] = {
    "unmanagevolume": "volume",
    "attachvolume": "volume",
    "detachvolume": "volume",
    "deletevolume": "volume",
    "unmanagevirtualmachine": "virtualmachine",
    "updatevirtualmachine": "virtualmachine",
    "startvirtualmachine": "virtualmachine",
    "stopvirtualmachine": "virtualmachine",
    "destroyvirtualmachine": "virtualmachine",
    "expungevirtualmachine": "virtualmachine",
}


@dataclass(frozen=True)
class World:
    """Everything a command needs: tables, image directories by pool id, faults."""

    store: Store
    pool_directories: Mapping[str, Path]
    faults: FaultTable

    def get(self, table: str, row_id: str) -> Row:
        """The row with this id.

        Raises:
            ApiError: 431, with the real server's text, when there is none.
        """
        row = self.store.find(table, row_id)
        if row is None:
            raise parameter_error(
                f"Invalid parameter id value={row_id} due to incorrect long value format,"
                " or entity does not exist or due to incorrect parameter annotation for"
                " the field in api cmd class."
            )
        return row

    def check_ids(self, request: Request) -> None:
        """Refuse a request with an unknown id in a uuid parameter (431)."""
        name = request.command.name.lower()
        for parameter, value in request.values.items():
            table = _TABLE_OF_PARAMETER.get(parameter)
            if parameter == "id":
                table = _TABLE_OF_ID.get(name)
            if table and isinstance(value, str) and self.store.find(table, value) is None:
                raise parameter_error(
                    f"Unable to execute API command {name} due to invalid value."
                    f" Invalid parameter {parameter} value={value} due to incorrect long"
                    " value format, or entity does not exist or due to incorrect parameter"
                    " annotation for the field in api cmd class."
                )

    def owner(self, request: Request) -> Row:
        """The account that will own a new entity: the named one, else the caller."""
        name, domain_id = request.text("account"), request.text("domainid")
        if domain_id and not name:
            raise parameter_error("domainid parameter must be specified with account parameter")
        if not name:
            return self.account(ADMIN)
        for account in self.store.rows("account"):
            if account["name"] == name and account["domainid"] == (
                domain_id or self.account(ADMIN)["domainid"]
            ):
                return account
        raise parameter_error(f"Unable to find account {name} in domain {domain_id}")

    def account(self, name: str) -> Row:
        """The account called ``name``, which every new lab has."""
        return next(row for row in self.store.rows("account") if row["name"] == name)

    def version(self) -> tuple[int, ...]:
        """The CloudStack version that this server simulates, e.g. ``(4, 22, 1, 0)``."""
        text = self.get("setting", "version")["value"]
        return tuple(int(part) for part in str(text).split("."))

    def custom_disk_limits_gib(self) -> tuple[int, int]:
        """``custom.diskoffering.size.min`` and ``.max``: for customized disk offerings."""
        low = self.get("setting", "custom.diskoffering.size.min")["value"]
        high = self.get("setting", "custom.diskoffering.size.max")["value"]
        return int(low), int(high)

    def image_path(self, pool_id: str, name: str) -> Path:
        """The path of a pool's image; as on the real agent, ``name`` must be a basename."""
        directory = self.pool_directories.get(pool_id)
        if directory is None or not name or "/" in name:
            raise internal_error("Disk not found or is invalid")
        return directory / name

    def volumes_of(self, vm_id: str) -> list[Row]:
        """The volumes attached to a VM, by device id."""
        volumes = [v for v in self.store.rows("volume") if v.get("virtualmachineid") == vm_id]
        return sorted(volumes, key=lambda volume: int(volume["deviceid"]))

    def root_volume(self, vm_id: str) -> Row | None:
        """The ROOT volume of a VM; None for a VM that a failed import left behind."""
        return next((v for v in self.volumes_of(vm_id) if v["type"] == "ROOT"), None)

    def pool_usage(self, pool: Row) -> tuple[int, int]:
        """Capacity and used bytes of a pool, as configured or else of its file system."""
        directory = self.pool_directories.get(pool["id"])
        capacity, used = 0, 0
        if directory is not None and directory.is_dir():
            stats = os.statvfs(directory)
            capacity = stats.f_blocks * stats.f_frsize
            used = capacity - stats.f_bavail * stats.f_frsize
        configured = pool.get("configured_capacity_bytes")
        if configured is not None:
            capacity, used = int(configured), int(pool.get("configured_used_bytes", 0))
        return capacity, used

    def is_full(self, pool: Row) -> bool:
        """Whether the allocator skips a pool because it is full.

        Only a pool with a configured capacity can be full, because the file system of the
        lab's host may be fuller than the limit of a pool.
        """
        if "configured_capacity_bytes" not in pool:
            return False
        capacity, used = self.pool_usage(pool)
        return used * 100 >= capacity * _FULL_PERCENT


def ownership(account: Row) -> Row:
    """The fields of an entity that name its owner."""
    return {
        "account": account["name"],
        "domainid": account["domainid"],
        "domain": account["domain"],
        "domainpath": account["domainpath"],
    }


def present(command: Command, row: Row) -> Row:
    """The row, reduced to the fields of the real response of ``command``."""
    return {key: value for key, value in row.items() if key in command.response}


def vm_response(world: World, vm: Row) -> Row:
    """A VM with the fields that derive from its offering and volumes."""
    offering = world.get("serviceoffering", vm["serviceofferingid"])
    details = vm["details"]
    root = world.root_volume(vm["id"])
    sizes = {
        field: int(details.get(detail, offering.get(field, 0)) or 0)
        for field, detail in (
            ("cpunumber", "cpuNumber"),
            ("memory", "memory"),
            ("cpuspeed", "cpuSpeed"),
        )
    }
    host: Mapping[str, str] = {}
    if vm["state"] == "Running":
        host = {"hostid": vm["hostid"], "hostname": vm["hostname"]}
    derived = {"rootdeviceid": root["deviceid"], "rootdevicetype": "ROOT"} if root else {}
    base = {key: value for key, value in vm.items() if key not in ("hostid", "hostname")}
    return {**base, **sizes, **host, **derived}


def volume_response(world: World, volume: Row) -> Row:
    """A volume with the names of its pool, VM, zone and offering."""
    row = dict(volume)
    vm = world.store.find("virtualmachine", volume.get("virtualmachineid", ""))
    if vm is not None:
        row |= {
            "vmname": vm["name"],
            "vmdisplayname": vm["displayname"],
            "vmstate": vm["state"],
        }
    pool = world.store.find("storagepool", volume.get("storageid", ""))
    if pool is not None:
        row |= {"storage": pool["name"], "storagetype": _locality(pool)}
    return row


def _locality(pool: Row) -> str:
    return "local" if pool["scope"] == "HOST" else "shared"


def tags_fit(offering_tags: str, pool_tags: str) -> bool:
    """Whether a pool has all storage tags of an offering."""
    return _split(offering_tags) <= _split(pool_tags)


def _split(tags: str) -> frozenset[str]:
    return frozenset(part.strip() for part in tags.split(",") if part.strip())


def matches(row: Row, keyword: str, fields: Iterable[str]) -> bool:
    """Whether ``keyword`` is part of one of ``fields``, in any case, as SQL's LIKE does."""
    return any(keyword.lower() in str(row.get(field, "")).lower() for field in fields)
