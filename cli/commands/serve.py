"""``v2c serve``: all services of this host, until a signal stops them."""

import asyncio
import sys
from datetime import datetime
from typing import Annotated

import typer

from cli.interrupts import Interrupted, interruptible
from cli.options import ConfigOption, config_from
from cli.stack.stack import local_services, running_stack
from services.config import Config

__all__ = ["serve"]


def serve(
    config: ConfigOption = None,
    listen: Annotated[
        str | None,
        typer.Option("--listen", help="Address of the REST API; otherwise gateway.listen."),
    ] = None,
) -> None:
    """Run this host's services: agents, orchestrator and REST API.

    Services whose address in the config is another host's are not started here. A service that
    ends is started again. SIGTERM and Ctrl-C stop all; migrations keep their state and
    continue with the next start.

    \b
    Examples:
      v2c serve --config /etc/v2c/config.yaml
      v2c serve --listen 127.0.0.1:8000
    """
    loaded = config_from(config)
    address = listen or loaded.gateway.listen
    try:
        asyncio.run(interruptible(_serve(loaded, address), lambda: _print("stopping")))
    except Interrupted:
        _print("stopped")


async def _serve(config: Config, listen: str) -> None:
    commands = local_services(config, gateway_listen=listen)
    names = ", ".join(command.name for command in commands)
    _print(f"starting {names}")
    async with running_stack(config, commands, _print) as addresses:
        logs = config.migration.control_dir / "logs"
        _print(f"ready; REST API at {_url(addresses['gateway'])}, logs in {logs}")
        await asyncio.Event().wait()


def _url(address: str) -> str:
    """Where the REST API is reached; an address without a host is all of this host's."""
    host, _, port = address.rpartition(":")
    if host in {"", "0.0.0.0", "[::]"}:  # noqa: S104 - only compared
        return f"http://127.0.0.1:{port} (and all other addresses of this host, unencrypted)"
    return f"http://{address}"


def _print(text: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)
