"""What an operator asks of a migration under way."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer

from cli.connection import PEER, Stub, answering, orchestrator, require_server, selector
from cli.errors import UsageMistakeError
from cli.options import ConfigOption, MorefOption, ServerOption, config_from, spec_files, spec_of_vm
from cli.runtime_dirs import leave_marker
from cli.show.names import stage_name, state_name, vm_label
from services.config import Config, load_specs
from services.kit.channel import call
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

__all__ = ["cancel", "finalize", "pause", "resume", "retry", "rollback", "shutdown"]

Vm = Annotated[str, typer.Option("--vm", help="The VM, by name or moref.")]
SpecHint = Annotated[
    list[Path] | None,
    typer.Option("--spec", help="Take the VM's moref from this spec file."),
]
Control = Callable[[Stub, pb.Selector], Awaitable[pb.Migration]]
_SHUTDOWN_ACTIONS = {"force": pb.SHUTDOWN_ACTION_FORCE, "manual": pb.SHUTDOWN_ACTION_MANUAL}


def finalize(
    vm: Vm,
    spec: SpecHint = None,
    vm_id: MorefOption = None,
    now: Annotated[
        bool, typer.Option("--now", help="Without another delta pass; a running one is finished.")
    ] = False,
    config: ConfigOption = None,
    server: ServerOption = None,
) -> None:
    """Request cutover: delta pass, shutdown, final sync, import.

    Downtime begins with the shutdown, and ends with the import or the target's start.

    \b
    Examples:
      v2c finalize --spec web.yaml --vm web01
      v2c finalize --vm 'app server 02' --vm-id vm-1042 --now
    """

    async def control(stub: Stub, which: pb.Selector) -> pb.Migration:
        request = pb.FinalizeMigrationRequest(selector=which, now=now)
        return (await call(stub.FinalizeMigration(request), peer=PEER)).migration

    marker = "FINALIZE_NOW" if now else "FINALIZE"
    _control(control, vm, spec, vm_id, config, server, "finalize requested", marker)


def shutdown(
    vm: Vm,
    action: Annotated[
        str,
        typer.Option(
            "--action", help="force: power it off now; manual: wait until you have shut it down."
        ),
    ],
    spec: SpecHint = None,
    vm_id: MorefOption = None,
    config: ConfigOption = None,
    server: ServerOption = None,
) -> None:
    """Answer a migration that waits in awaiting_shutdown_action.

    It waits there when VMware Tools do not run in the guest, when the guest did not shut down in
    time, and always with shutdown_mode: manual.

    \b
    Example:
      v2c shutdown --vm web01 --action force
    """
    chosen = _SHUTDOWN_ACTIONS.get(action)
    if chosen is None:
        raise UsageMistakeError(
            f"--action: {action!r} is not a way to shut down", "Give force or manual."
        )
    decision = chosen

    async def control(stub: Stub, which: pb.Selector) -> pb.Migration:
        request = pb.DecideShutdownRequest(selector=which, action=decision)
        return (await call(stub.DecideShutdown(request), peer=PEER)).migration

    marker = f"SHUTDOWN_{action.upper()}"
    _control(control, vm, spec, vm_id, config, server, f"shutdown: {action}", marker)


def pause(
    vm: Vm,
    spec: SpecHint = None,
    vm_id: MorefOption = None,
    config: ConfigOption = None,
    server: ServerOption = None,
) -> None:
    """Pause a migration at its next safe point."""

    async def control(stub: Stub, which: pb.Selector) -> pb.Migration:
        request = pb.PauseMigrationRequest(selector=which)
        return (await call(stub.PauseMigration(request), peer=PEER)).migration

    _control(control, vm, spec, vm_id, config, server, "pause requested")


def resume(
    vm: Vm,
    spec: SpecHint = None,
    vm_id: MorefOption = None,
    config: ConfigOption = None,
    server: ServerOption = None,
) -> None:
    """Resume a paused migration where it was paused."""

    async def control(stub: Stub, which: pb.Selector) -> pb.Migration:
        request = pb.ResumeMigrationRequest(selector=which)
        return (await call(stub.ResumeMigration(request), peer=PEER)).migration

    _control(control, vm, spec, vm_id, config, server, "resumed")


def retry(
    vm: Vm,
    spec: SpecHint = None,
    vm_id: MorefOption = None,
    config: ConfigOption = None,
    server: ServerOption = None,
) -> None:
    """Continue a failed migration at the stage where it failed.

    What was copied stays. After a failed verification, what differs in the images is read from the
    source once more, written and read back.
    """

    async def control(stub: Stub, which: pb.Selector) -> pb.Migration:
        request = pb.RetryMigrationRequest(selector=which)
        return (await call(stub.RetryMigration(request), peer=PEER)).migration

    _control(control, vm, spec, vm_id, config, server, "retry requested")


def cancel(
    vm: Vm,
    spec: SpecHint = None,
    vm_id: MorefOption = None,
    config: ConfigOption = None,
    server: ServerOption = None,
) -> None:
    """End a migration before its import and clean up both sides.

    The source is started again if v2c shut it down. Needs running services: v2c serve.
    """

    async def control(stub: Stub, which: pb.Selector) -> pb.Migration:
        request = pb.CancelMigrationRequest(selector=which)
        return (await call(stub.CancelMigration(request), peer=PEER)).migration

    _control(control, vm, spec, vm_id, config, server, "cancel requested")


def rollback(
    vm: Vm,
    spec: SpecHint = None,
    vm_id: MorefOption = None,
    config: ConfigOption = None,
    server: ServerOption = None,
) -> None:
    """Undo a cutover: stop and unmanage the target, start the source.

    The target's images stay in their pool. Needs running services: v2c serve.
    """

    async def control(stub: Stub, which: pb.Selector) -> pb.Migration:
        request = pb.RollbackMigrationRequest(selector=which)
        return (await call(stub.RollbackMigration(request), peer=PEER)).migration

    _control(control, vm, spec, vm_id, config, server, "rollback requested")


def _control(
    control: Control,
    vm: str,
    spec: list[Path] | None,
    moref: str | None,
    config: Path | None,
    server: str | None,
    done: str,
    marker: str = "",
) -> None:
    """Send one control and print where the migration stands.

    When no orchestrator answers, a request with a `marker` is left in the VM's folder for the next
    one.
    """
    loaded = config_from(config)
    which = chosen(loaded, vm, spec, moref)

    async def send() -> pb.Migration | None:
        address = server or loaded.agents.orchestrator
        if marker and server is None and not await answering(loaded, address):
            name, control_dir = which.vm_name or vm, loaded.migration.control_dir
            if leave_marker(control_dir, name, which.vm_moref or None, marker):
                return None
        address = await require_server(loaded, server)
        async with orchestrator(loaded, address) as stub:
            return await control(stub, which)

    migration = asyncio.run(send())
    if migration is None:
        typer.echo(
            f"{vm}: {done}; no orchestrator runs now, the next v2c run or v2c serve acts on it"
        )
        return
    now = f"{stage_name(migration.stage)}, {state_name(migration.state)}"
    typer.echo(f"{vm_label(migration)}: {done} (now {now})")


def chosen(config: Config, vm: str, spec: list[Path] | None, moref: str | None) -> pb.Selector:
    """The migration an operator means. Raises ConfigError or CommandError."""
    if spec:
        return selector(spec_of_vm(load_specs(*spec_files(spec, config)), vm, moref))
    if moref:
        return pb.Selector(vm_moref=moref)
    return pb.Selector(vm_name=vm)
