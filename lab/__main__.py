"""The lab's command line: ``python -m lab --help``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from lab import scenarios, stack
from lab.control import ControlClient, ControlError
from lab.demo.command import demo
from lab.scenarios import UnknownScenarioError
from lab.stack import LabError, Ports

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="A vCenter, an ESXi data path and a CloudStack on localhost, to migrate between.\n\n"
    "Start with [bold]up[/bold], point config and spec at what [bold]status --json[/bold] "
    "prints, break things with [bold]fault[/bold], end with [bold]down[/bold].",
)
fault = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Make the simulators fail on demand.\n\n"
    "[bold]fault set vcenter method=CreateSnapshot fault=TaskInProgress count=2[/bold] makes "
    "the next two snapshots fail; [bold]fault list[/bold] shows what is armed.",
)
app.add_typer(fault, name="fault")
app.command()(demo)

DEFAULT_DIR = Path.home() / ".cache" / "v2c" / "lab"

Directory = Annotated[
    Path,
    typer.Option(
        "--dir", envvar="V2C_LAB_DIR", help="The lab's directory; all its state is there."
    ),
]
SIMULATORS = ("vcenter", "esxi", "cloudstack")
Simulator = Annotated[str, typer.Argument(help=f"Which part: {', '.join(SIMULATORS)}.")]


@app.command()
def up(
    directory: Directory = DEFAULT_DIR,
    scenario: Annotated[
        str | None,
        typer.Option(
            help=f"What a new lab contains: {', '.join(scenarios.names())} (default demo). "
            "An existing lab keeps what it has."
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="TCP port of the vCenter, 0 = any.")] = 0,
    cloudstack_port: Annotated[int, typer.Option(help="TCP port of CloudStack, 0 = any.")] = 0,
) -> None:
    """Start the lab, or what is not running of it, and leave it running.

    All addresses, credentials and ids are then in DIR/lab.json. Guests in powered-on VMs write
    to their disks until they are shut down.
    """
    with _explained():
        lab = stack.up(directory, scenario, Ports(port, cloudstack_port), report=typer.echo)
    vcenter, cloudstack = lab.info["vcenter"], lab.info["cloudstack"]
    typer.echo(f"vCenter     https://{vcenter['host']}:{vcenter['port']}/sdk  {vcenter['user']}")
    typer.echo(f"CloudStack  {cloudstack['endpoint']}")
    typer.echo(f"VDDK        {lab.info['vddk_path']}")
    typer.echo(f"Everything else, including passwords, is in {directory / 'lab.json'}")


@app.command()
def down(directory: Directory = DEFAULT_DIR) -> None:
    """Shut the guests down and stop the lab. Its state is kept; `up` starts it again."""
    if not stack.down(directory, report=typer.echo):
        typer.echo("nothing was running")


@app.command()
def status(
    directory: Directory = DEFAULT_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="Print lab.json and the state.")] = False,
) -> None:
    """Show which parts run and what they contain. Exit code 3 if a part is not running."""
    with _explained():
        state = stack.status(directory)
        info = stack.load(directory).info
    if as_json:
        typer.echo(json.dumps({**info, "status": state}, indent=2, ensure_ascii=False))
    else:
        _print_status(state, info)
    if None in state["processes"].values():
        raise typer.Exit(3)


@fault.command("list")
def list_faults(directory: Directory = DEFAULT_DIR) -> None:
    """Show the armed faults of vCenter and CloudStack (the ESXi side does not list its own)."""
    with _explained():
        for simulator in ("vcenter", "cloudstack"):
            for entry in _client(directory, simulator).call("faults")["faults"]:
                fields = " ".join(f"{k}={v}" for k, v in entry.items() if v not in ("", 0, None))
                typer.echo(f"{simulator}  {fields}")


@fault.command("set")
def set_fault(
    simulator: Simulator,
    parameters: Annotated[list[str], typer.Argument(help="name=value, as many as needed.")],
    directory: Directory = DEFAULT_DIR,
) -> None:
    """Arm a fault.

    vCenter: method= (e.g. CreateSnapshot, RemoveSnapshot, QueryChangedDiskAreas, Login),
    fault= (any vSphere fault, e.g. TaskInProgress, FileFault, NoPermission, NotAuthenticated, or
    ConnectionDropped), vm= (name or moref), count= (default 1, 0 = until cleared), skip=,
    delay_seconds=, when=before|after, message=.

    ESXi (VDDK readers): kind=open_busy|read_error|disconnect|latency, vm=, key=, offset=, length=,
    count=, milliseconds=.

    CloudStack: command= (* for all), kind= (error, http, drop_before, drop_after, delay, job_fail,
    job_fail_after, job_hang, job_delay, no_placement, no_free_ip), code=, text=, seconds=, times=,
    skip=.
    """
    operation = "inject_fault" if simulator == "esxi" else "fault"
    with _explained():
        answer = _client(directory, simulator).call(operation, **_parsed(parameters))
    typer.echo(json.dumps(answer, ensure_ascii=False))


@fault.command("clear")
def clear_faults(
    simulator: Annotated[str | None, typer.Argument(help="Which part; all if left out.")] = None,
    directory: Directory = DEFAULT_DIR,
) -> None:
    """Disarm all faults, of one part or of the whole lab."""
    with _explained():
        for name in (simulator,) if simulator else SIMULATORS:
            _client(directory, name).call("clear_faults")


@app.command("set")
def change_settings(
    parameters: Annotated[list[str], typer.Argument(help="name=value, as many as needed.")],
    vm: Annotated[str, typer.Option(help="Change this VM's behaviour, not the vCenter's.")] = "",
    directory: Directory = DEFAULT_DIR,
) -> None:
    """Change how the vCenter, or one of its VMs, behaves.

    vCenter: task_seconds, remove_snapshot_seconds, call_seconds, session_idle_seconds,
    cbt_page_areas, cbt_page_bytes, cbt_empty_pages, max_page_objects, guest_stop_seconds.

    A VM (--vm): shutdown=normal|ignore|slow, quiesce=normal|application-fault|filesystem-fault,
    consolidation=normal|fails.
    """
    with _explained():
        answer = _client(directory, "vcenter").call("set", vm=vm, **_parsed(parameters))
    typer.echo(json.dumps(answer["settings"], ensure_ascii=False))


@app.command("expire-sessions")
def expire_sessions(directory: Directory = DEFAULT_DIR) -> None:
    """End all vCenter sessions now, as an idle limit or a restart does."""
    with _explained():
        answer = _client(directory, "vcenter").call("expire_sessions")
    typer.echo(f"{answer['expired']} sessions expired")


@app.command("reset-cbt")
def reset_cbt(
    vm: Annotated[str, typer.Argument(help="Name or moref of the VM.")],
    disk: Annotated[
        int | None, typer.Option(help="Device key; all tracked disks if left out.")
    ] = None,
    directory: Directory = DEFAULT_DIR,
) -> None:
    """Reset the changed block tracking of a VM's disks: earlier change ids become stale."""
    with _explained():
        answer = _client(directory, "vcenter").call("reset_cbt", vm=vm, disk=disk)
    typer.echo(f"tracking was reset on disks {answer['disks']}")


@app.command("power-loss")
def power_loss(
    vm: Annotated[str, typer.Argument(help="Name or moref of the VM.")],
    directory: Directory = DEFAULT_DIR,
) -> None:
    """Switch a VM off as a host failure does: without a flush, and with CBT reset."""
    with _explained():
        _client(directory, "vcenter").call("power_loss", vm=vm)


class _explained:  # noqa: N801 - used like a keyword: `with _explained():`
    """Turns errors of the lab into one line and exit code 1."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, (LabError, UnknownScenarioError, ControlError)):
            hint = ""
            if isinstance(error, ControlError) and error.kind == "unreachable":
                hint = " (is the lab up? look with `v2c lab status`)"
            typer.echo(f"error: {error}{hint}", err=True)
            raise typer.Exit(1) from error


def _client(directory: Path, simulator: str) -> ControlClient:
    clients: dict[str, Callable[[stack.Lab], ControlClient]] = {
        "vcenter": lambda lab: lab.vcenter,
        "esxi": lambda lab: lab.esxi,
        "cloudstack": lambda lab: lab.cloudstack,
    }
    if simulator not in clients:
        raise LabError(f"there is no part {simulator!r}, only {', '.join(clients)}")
    return clients[simulator](stack.load(directory))


def _parsed(parameters: list[str]) -> dict[str, Any]:
    """Arguments name=value; values that are JSON (numbers, true, false, null) are read as JSON."""
    result: dict[str, Any] = {}
    for argument in parameters:
        name, equals, value = argument.partition("=")
        if not equals:
            raise LabError(f"{argument!r} is not name=value")
        try:
            result[name] = json.loads(value)
        except ValueError:
            result[name] = value
    return result


def _print_status(state: dict[str, Any], info: dict[str, Any]) -> None:
    typer.echo(f"lab in {state['directory']}")
    for name, pid in state["processes"].items():
        typer.echo(f"  {name:<11} {f'running, pid {pid}' if pid else 'not running'}")
    vcenter = state["vcenter"]
    if vcenter is not None:
        typer.echo(
            f"scenario {vcenter['scenario']}: {vcenter['vms']} VMs, {vcenter['powered_on']} on, "
            f"{vcenter['snapshots']} snapshots, {vcenter['sessions']} sessions, "
            f"{vcenter['faults']} faults armed"
        )
        shown = info["vms"][:20]
        for vm in shown:
            writer = "  writing" if state["guests"].get(vm["moref"]) else ""
            typer.echo(f"  {vm['moref']:<8} {vm['name']}{writer}")
        if len(info["vms"]) > len(shown):
            typer.echo(f"  … and {len(info['vms']) - len(shown)} more")


def main() -> None:
    """Entry point; the product's ``lab`` subcommand runs it too."""
    app(prog_name="v2c lab")


if __name__ == "__main__":
    main()
