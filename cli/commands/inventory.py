"""``v2c list``: what there is to migrate, and where it can go. Ids and names for spec files."""

import asyncio
import json as json_module
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.connection import PAGE_SIZE, PEER, Stub, orchestrator, require_server
from cli.errors import UsageMistakeError
from cli.options import ConfigOption, JsonOption, ServerOption, config_from
from cli.show.json_output import as_dict
from cli.show.units import size
from services.config import Config
from services.kit.channel import call
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

__all__ = ["list_inventory"]

_PIPE_WIDTH = 400
_KINDS = {
    "zones": pb.PLACEMENT_KIND_ZONE,
    "clusters": pb.PLACEMENT_KIND_CLUSTER,
    "storage": pb.PLACEMENT_KIND_STORAGE_POOL,
    "networks": pb.PLACEMENT_KIND_NETWORK,
    "disk-offerings": pb.PLACEMENT_KIND_DISK_OFFERING,
    "service-offerings": pb.PLACEMENT_KIND_SERVICE_OFFERING,
    "os-types": pb.PLACEMENT_KIND_OS_TYPE,
}
# A vCenter of thousands of VMs is read in seconds, over a slow line in more.
_TIMEOUT_SECONDS = 120.0


def list_inventory(
    what: Annotated[str, typer.Argument(help=f"What to list: vms, {', '.join(_KINDS)}.")],
    filter_text: Annotated[
        str, typer.Option("--filter", help="Only names that contain this text.")
    ] = "",
    zone: Annotated[str, typer.Option("--zone", help="Only in the zone with this id.")] = "",
    json: JsonOption = False,
    config: ConfigOption = None,
    server: ServerOption = None,
) -> None:
    """List source VMs, or ids of zones, pools, networks, offerings.

    Needs running services: v2c serve or v2c run.

    \b
    Examples:
      v2c list vms --filter web
      v2c list networks --zone b85761ad-bc7e-5170-92bf-7001d40b491f
    """
    if what != "vms" and what not in _KINDS:
        raise UsageMistakeError(f"{what!r} cannot be listed", f"Give vms, {', '.join(_KINDS)}.")
    loaded = config_from(config)
    if what == "vms":
        vms = asyncio.run(_vms(loaded, server, filter_text))
        _print([as_dict(vm) for vm in vms], _vm_table(vms), json=json)
        return
    placements = asyncio.run(_placements(loaded, server, what, zone, filter_text))
    _print([as_dict(item) for item in placements], _placement_table(placements), json=json)


async def _vms(config: Config, server: str | None, filter_text: str) -> list[pb.SourceVm]:
    address = await require_server(config, server)
    vms: list[pb.SourceVm] = []
    async with orchestrator(config, address) as stub:
        token = ""
        while True:
            page = await _vm_page(stub, filter_text, token)
            vms += page.vms
            token = page.next_page_token
            if not token:
                return vms


async def _vm_page(stub: Stub, filter_text: str, token: str) -> pb.ListSourceVmsResponse:
    request = pb.ListSourceVmsRequest(filter=filter_text, page_size=PAGE_SIZE, page_token=token)
    return await call(stub.ListSourceVms(request, timeout=_TIMEOUT_SECONDS), peer=PEER)


async def _placements(
    config: Config, server: str | None, what: str, zone: str, filter_text: str
) -> list[pb.TargetPlacement]:
    address = await require_server(config, server)
    request = pb.ListTargetPlacementsRequest(kind=_KINDS[what], zone_id=zone, filter=filter_text)
    async with orchestrator(config, address) as stub:
        listing = stub.ListTargetPlacements(request, timeout=_TIMEOUT_SECONDS)
        return list((await call(listing, peer=PEER)).placements)


def _vm_table(vms: list[pb.SourceVm]) -> Table:
    table = _table("NAME", "MOREF", "POWER", "FIRMWARE", "DISKS (number: size)", "NICS", "FOLDER")
    for vm in vms:
        disks = ", ".join(f"{disk.unit}: {size(disk.capacity_bytes)}" for disk in vm.disks)
        nics = ", ".join(f"{nic.key}: {nic.network}" for nic in vm.nics)
        table.add_row(vm.name, vm.moref, vm.power_state, vm.firmware, disks, nics, vm.path)
    return table


def _placement_table(placements: list[pb.TargetPlacement]) -> Table:
    table = _table("ID", "NAME")
    for placement in placements:
        table.add_row(placement.id, placement.name)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(rows: list[dict[str, object]], table: Table, *, json: bool) -> None:
    if json:
        print(json_module.dumps(rows, ensure_ascii=False, indent=1))
    elif rows:
        Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)
    else:
        print("nothing found")
