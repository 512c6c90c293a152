"""Virtual machines, volumes and adapters as CloudStack lists them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.cloudstack_agent.client.api import (
    CloudStackApi,
    Row,
    child,
    children,
    flag,
    list_rows,
    number,
    text,
)
from services.cloudstack_agent.errors import (
    CloudStackParameterRefused,
    RequestInvalid,
    VmAmbiguous,
    VmNotFound,
    VolumeNotFound,
)

DETACHED: Final = -1
_DESTROYED: Final = frozenset({"Destroyed", "Expunging"})


@dataclass(frozen=True)
class Nic:
    """A network adapter; `mac` in lower case, `ip_address` empty when it has none."""

    id: str
    network_id: str
    mac: str
    ip_address: str
    is_default: bool


@dataclass(frozen=True)
class Volume:
    """A volume. `path` is its file's name in the pool; `device_id` is -1 when it is detached."""

    id: str
    name: str
    type: str
    path: str
    storage_id: str
    size_bytes: int
    device_id: int
    vm_id: str
    state: str
    disk_offering_id: str


@dataclass(frozen=True)
class Vm:
    """A virtual machine; volumes root first, adapters by device number."""

    id: str
    name: str
    display_name: str
    state: str
    volumes: tuple[Volume, ...]
    nics: tuple[Nic, ...]
    details: Mapping[str, str]
    os_type_id: str
    service_offering_id: str
    boot_type: str
    boot_mode: str
    zone_id: str

    @property
    def is_destroyed(self) -> bool:
        """Whether the machine waits to be expunged.

        CloudStack still lists such ones to an admin.
        """
        return self.state in _DESTROYED


async def vm_by_id(api: CloudStackApi, vm_id: str) -> Vm:
    """The machine with its volumes and adapters. Raises VmNotFound."""
    try:
        rows = await list_rows(
            api, "listVirtualMachines", "virtualmachine", {"id": vm_id, "listall": "true"}
        )
    except CloudStackParameterRefused as exc:
        # CloudStack refuses an unknown id as an invalid parameter.
        raise _no_vm(vm_id) from exc
    if not rows:
        raise _no_vm(vm_id)
    return await _with_volumes(api, rows[0])


async def vm_by_name(api: CloudStackApi, name: str) -> Vm:
    """The one machine with this host or display name; destroyed machines are ignored.

    Raises VmNotFound, VmAmbiguous.
    """
    rows = await _rows_named(api, name)
    if not rows:
        raise _no_vm(name)
    if len(rows) > 1:
        ids = ", ".join(text(row, "id") for row in rows)
        raise VmAmbiguous(
            message=f"{len(rows)} virtual machines are called {name!r}", metadata={"vms": ids}
        )
    return await _with_volumes(api, rows[0])


async def vms_named(api: CloudStackApi, name: str) -> list[Vm]:
    """Every machine with this host or display name; destroyed machines are ignored."""
    return [await _with_volumes(api, row) for row in await _rows_named(api, name)]


async def volume_by_id(api: CloudStackApi, volume_id: str) -> Volume:
    """The volume. Raises VolumeNotFound."""
    missing = VolumeNotFound(
        message=f"CloudStack has no volume {volume_id}", metadata={"volume": volume_id}
    )
    try:
        rows = await list_rows(api, "listVolumes", "volume", {"id": volume_id, "listall": "true"})
    except CloudStackParameterRefused as exc:
        raise missing from exc
    if not rows:
        raise missing
    return _volume(rows[0])


async def find_volume_at(api: CloudStackApi, storage_id: str, path: str) -> Volume | None:
    """The volume whose file is `path` in a pool, or None.

    Volumes of the pool are listed and compared, because CloudStack cannot filter by path.
    """
    if not storage_id or not path:
        raise RequestInvalid(message="a volume is named by id, or by storage pool and path")
    rows = await list_rows(
        api, "listVolumes", "volume", {"storageid": storage_id, "listall": "true"}
    )
    return next((_volume(row) for row in rows if text(row, "path") == path), None)


async def _rows_named(api: CloudStackApi, name: str) -> list[Row]:
    # Neither filter is exact: `name` matches parts of host names, `keyword` of display names too.
    found: dict[str, Row] = {}
    for parameter in ("name", "keyword"):
        rows = await list_rows(
            api, "listVirtualMachines", "virtualmachine", {parameter: name, "listall": "true"}
        )
        found |= {text(row, "id"): row for row in rows}
    return [
        row
        for row in found.values()
        if name in (text(row, "name"), text(row, "displayname"))
        and text(row, "state") not in _DESTROYED
    ]


async def _with_volumes(api: CloudStackApi, row: Row) -> Vm:
    rows = await list_rows(
        api,
        "listVolumes",
        "volume",
        {"virtualmachineid": text(row, "id"), "listall": "true"},
    )
    volumes = sorted(
        (_volume(volume) for volume in rows), key=lambda v: (v.type != "ROOT", v.device_id)
    )
    nics = sorted(children(row, "nic"), key=lambda nic: number(nic, "deviceid"))
    details = child(row, "details")
    return Vm(
        id=text(row, "id"),
        name=text(row, "name"),
        display_name=text(row, "displayname"),
        state=text(row, "state"),
        volumes=tuple(volumes),
        nics=tuple(_nic(nic) for nic in nics),
        details={key: text(details, key) for key in details},
        os_type_id=text(row, "ostypeid") or text(row, "guestosid"),
        service_offering_id=text(row, "serviceofferingid"),
        boot_type="UEFI" if text(details, "UEFI") else text(row, "boottype") or "BIOS",
        boot_mode=text(details, "UEFI") or text(row, "bootmode") or "LEGACY",
        zone_id=text(row, "zoneid"),
    )


def _volume(row: Row) -> Volume:
    vm_id = text(row, "virtualmachineid")
    return Volume(
        id=text(row, "id"),
        name=text(row, "name"),
        type=text(row, "type"),
        path=text(row, "path"),
        storage_id=text(row, "storageid"),
        size_bytes=number(row, "size"),
        device_id=number(row, "deviceid", DETACHED) if vm_id else DETACHED,
        vm_id=vm_id,
        state=text(row, "state"),
        disk_offering_id=text(row, "diskofferingid"),
    )


def _nic(row: Row) -> Nic:
    return Nic(
        id=text(row, "id"),
        network_id=text(row, "networkid"),
        mac=text(row, "macaddress").lower(),
        ip_address=text(row, "ipaddress"),
        is_default=flag(row, "isdefault"),
    )


def _no_vm(name: str) -> VmNotFound:
    return VmNotFound(message=f"CloudStack has no virtual machine {name!r}", metadata={"vm": name})
