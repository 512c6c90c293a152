"""``v2c events``: what happened to migrations, and who asked for it."""

import asyncio
import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from cli.commands.controls import chosen
from cli.connection import PAGE_SIZE, PEER, orchestrator, require_server
from cli.options import (
    ConfigOption,
    JsonOption,
    MorefOption,
    ServerOption,
    VmOption,
    config_from,
)
from cli.show.json_output import as_dict
from services.config import Config
from services.kit.channel import call, stream
from v2c.orchestrator.v1 import orchestrator_pb2 as pb


def events(
    vm: VmOption = None,
    spec: Annotated[
        list[Path] | None, typer.Option("--spec", help="Take the VM's moref from this spec file.")
    ] = None,
    vm_id: MorefOption = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Keep printing new ones as they happen.")
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
    server: ServerOption = None,
) -> None:
    """Print what was done when and by whom, and what went wrong.

    Needs running services: v2c serve or v2c run.

    \b
    Examples:
      v2c events --vm web01
      v2c events --follow --json
    """
    loaded = config_from(config)
    which = chosen(loaded, vm, spec, vm_id) if vm else None
    try:
        asyncio.run(_print_events(loaded, server, which, follow=follow, json=json))
    except KeyboardInterrupt:
        if not follow:
            raise


async def _print_events(
    config: Config, server: str | None, which: pb.Selector | None, *, follow: bool, json: bool
) -> None:
    address = await require_server(config, server)
    last = 0
    async with orchestrator(config, address) as stub:
        while True:
            request = pb.ListEventsRequest(selector=which, after_sequence=last, page_size=PAGE_SIZE)
            page = await call(stub.ListEvents(request), peer=PEER)
            for event in page.events:
                _print_event(event, json=json)
                last = event.sequence
            if len(page.events) < PAGE_SIZE:
                break
        if follow:
            watch = pb.WatchEventsRequest(selector=which, after_sequence=last)
            async for response in stream(stub.WatchEvents(watch), peer=PEER):
                _print_event(response.event, json=json)


def _print_event(event: pb.Event, *, json: bool) -> None:
    if json:
        print(json_module.dumps(as_dict(event), ensure_ascii=False), flush=True)
        return
    when = event.time.ToDatetime().strftime("%Y-%m-%d %H:%M:%SZ")
    who = "" if event.actor == "orchestrator" else f" (by {event.actor})"
    print(f"{when} {event.vm_name or '-'}: {event.message}{who}", flush=True)
