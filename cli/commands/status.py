"""``v2c status``: where migrations stand."""

import asyncio
import json as json_module
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.connection import PAGE_SIZE, PEER, answering, orchestrator, require_server, selector
from cli.errors import CommandError
from cli.options import (
    ConfigOption,
    JsonOption,
    ServerOption,
    VmOption,
    config_from,
    spec_files,
    spec_of_vm,
)
from cli.runtime_dirs import RuntimeDir, find_runtime_dirs, runtime_dirs
from cli.show.json_output import as_dict
from cli.show.names import ENDED, speed, state_name
from cli.show.outcome import error_values, outcome
from cli.show.units import duration
from services.config import Config, VmSpec, load_specs
from services.kit.channel import call
from services.kit.errors import RemoteError
from services.kit.failure import Code
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

__all__ = ["status"]

_PIPE_WIDTH = 400


def status(
    spec: Annotated[
        list[Path] | None,
        typer.Option("--spec", help="Only the VMs of this spec; may be given several times."),
    ] = None,
    vm: VmOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
    server: ServerOption = None,
) -> None:
    """Show how far the VMs are: all, or those of a spec.

    Without a running server, the last state written to disk is shown.

    \b
    Examples:
      v2c status
      v2c status --spec fleet.yaml
      v2c status --spec fleet.yaml --vm web01 --json
    """
    loaded = config_from(config)
    if spec:
        specs = load_specs(*spec_files(spec, loaded))
        if vm is not None:
            specs = (spec_of_vm(specs, vm, None),)
        rows = asyncio.run(_rows(loaded, server, specs))
    else:
        rows = asyncio.run(_every_row(loaded, server))
        if vm is not None:
            rows = [row for row in rows if vm in (row["vm_name"], row.get("vm_moref"))]
    if json:
        print(json_module.dumps(rows, ensure_ascii=False, indent=1))
        return
    if not rows:
        raise CommandError(
            f"there is no migration of {vm}" if vm else "there is no migration yet",
            "Submit a spec with `v2c run --spec FILE`.",
        )
    # Into a pipe each VM and each debt is one line, however long.
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    console.print(_stand(rows))
    if any(row.get("debts") for row in rows):
        console.print("\nStill to be removed, or handed over to CloudStack:")
        console.print(_debts(rows, datetime.now(UTC)))


async def _every_row(config: Config, server: str | None) -> list[dict[str, Any]]:
    """All migrations, also those whose spec is not at hand."""
    address = server or config.agents.orchestrator
    if not await answering(config, address):
        if server is not None:
            await require_server(config, server)
        return [_as_written(found) for found in runtime_dirs(config.migration.control_dir)]
    rows: list[dict[str, Any]] = []
    token = ""
    async with orchestrator(config, address) as stub:
        while True:
            request = pb.ListMigrationsRequest(page_size=PAGE_SIZE, page_token=token)
            page = await call(stub.ListMigrations(request), peer=PEER)
            rows += [_row(migration) for migration in page.migrations]
            token = page.next_page_token
            if not token:
                return rows


async def _rows(
    config: Config, server: str | None, specs: tuple[VmSpec, ...]
) -> list[dict[str, Any]]:
    address = server or config.agents.orchestrator
    if not await answering(config, address):
        if server is not None:
            await require_server(config, server)
        return [_from_disk(config, spec) for spec in specs]
    rows = []
    async with orchestrator(config, address) as stub:
        for spec in specs:
            request = pb.GetMigrationRequest(selector=selector(spec))
            try:
                response = await call(stub.GetMigration(request), peer=PEER)
            except RemoteError as error:
                if error.code is not Code.NOT_FOUND:
                    raise
                rows.append(_unknown(spec))
            else:
                rows.append(_row(response.migration))
    return rows


def _row(migration: pb.Migration) -> dict[str, Any]:
    return {**as_dict(migration), "summary": _summary(migration)}


def _from_disk(config: Config, spec: VmSpec) -> dict[str, Any]:
    """The last state.json of a VM, as a row of its own kind: nothing changes it now."""
    found = list(find_runtime_dirs(config.migration.control_dir, spec.vm.name, spec.vm.moref))
    if not found:
        return _unknown(spec)
    newest = max(found, key=lambda item: (item.path / "state.json").stat().st_mtime)
    return _as_written(newest)


def _as_written(found: RuntimeDir) -> dict[str, Any]:
    row = {"stage": "", **found.state, "state": found.state.get("status", ""), "running": False}
    row["summary"] = "as last written"
    error = found.state.get("error") or {}
    if row["state"] == state_name(pb.STATE_FAILED) and error.get("message"):
        message = error["message"].rstrip(".")
        row["summary"] += f": {message}"
        if values := error_values(message, error.get("metadata") or {}):
            row["summary"] += f" ({values})"
    if row["state"] not in {state_name(state) for state in ENDED - {pb.STATE_FAILED}}:
        row["summary"] += "; no orchestrator answers, v2c run continues it"
    return row


def _unknown(spec: VmSpec) -> dict[str, Any]:
    return {
        "vm_name": spec.vm.name,
        "vm_moref": spec.vm.moref or "",
        "stage": "",
        "state": "",
        "summary": "never started: v2c run starts it",
    }


def _summary(migration: pb.Migration) -> str:
    if migration.state in ENDED:
        return outcome(migration).partition(": ")[2]
    parts = [migration.activity, speed(migration)]
    if migration.finalize_requested:
        parts.append("finalize requested")
    return ", ".join(part for part in parts if part)


def _stand(rows: list[dict[str, Any]]) -> Table:
    """Where each VM stands, one row each."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("VM", "MOREF", "STAGE", "STATE"):
        table.add_column(name, no_wrap=True)
    for name in ("DONE", "PASSES", "DOWNTIME"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for row in rows:
        downtime = row.get("downtime") or {}
        seconds = downtime.get("total_seconds")
        done = row.get("overall_progress")
        table.add_row(
            row["vm_name"],
            row.get("vm_moref") or "",
            row["stage"] or "-",
            row["state"] or "-",
            "" if done is None else f"{done:.0f} %",
            str(row.get("delta_passes", "")),
            "" if seconds is None else duration(seconds),
            row["summary"],
        )
    return table


def _debts(rows: list[dict[str, Any]], now: datetime) -> Table:
    """Each VM's debts with their age at `now`; state.json of an older v2c has less about them."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("VM", no_wrap=True)
    table.add_column("KIND", no_wrap=True)
    table.add_column("AGE", justify="right", no_wrap=True)
    table.add_column("NAME", overflow="fold")
    debts = [(row["vm_name"], debt) for row in rows for debt in row.get("debts", ())]
    tried = any(debt.get("attempts") for _, debt in debts)
    if tried:
        table.add_column("TRIED", justify="right", no_wrap=True)
        table.add_column("LAST ERROR", overflow="fold")
    for vm, debt in debts:
        age = now - datetime.fromisoformat(debt["create_time"])
        cells = [vm, debt["kind"], duration(age.total_seconds()), debt["name"]]
        if tried:
            cells += [str(debt.get("attempts", 0)), debt.get("last_error", "")]
        table.add_row(*cells)
    return table
