"""``v2c run``: migrate the VMs of one or more specs, and watch."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Annotated

import typer
from rich.console import Console

from cli.connection import PEER, Stub, answering, is_local, orchestrator, refuse_remote
from cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, CommandError
from cli.follow import Display, follow
from cli.interrupts import Interrupted, interruptible
from cli.options import (
    ConfigOption,
    JsonOption,
    ServerOption,
    SpecsOption,
    config_from,
    spec_files,
)
from cli.show.json_output import JsonDisplay
from cli.show.live import LiveDisplay
from cli.show.plain import PlainDisplay
from cli.stack.stack import local_services, running_stack
from services.config import Config, SpecFile, dump_specs, load_spec_files, resolve_all
from services.kit.channel import call
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

# A spec of a thousand machines is submitted in one call and started in several short ones.
_SUBMIT_SECONDS = 180.0
_START_AT_ONCE = 50

__all__ = ["check_vddk", "run"]

ParallelVms = Annotated[
    int | None,
    typer.Option(
        "--parallel-vms",
        min=1,
        help="How many VMs may be in their full copy; otherwise the config's.",
    ),
]


def run(
    spec: SpecsOption,
    config: ConfigOption = None,
    parallel_vms: ParallelVms = None,
    server: ServerOption = None,
    json: JsonOption = False,
) -> None:
    """Migrate VMs and watch them until every one has ended.

    Uses the services of a running v2c serve, where migrations continue without this command;
    otherwise starts its own for as long as it runs. Ctrl-C is safe: migrations keep their state,
    and the same command continues where they stopped, also after a failure or a crash.

    The exit code is 0 only if every VM is done.

    \b
    Examples:
      v2c run --spec web01.yaml
      v2c run --spec web.yaml --spec db.yaml --parallel-vms 2 --config /etc/v2c/config.yaml
      v2c run --spec fleet.yaml --json > progress.jsonl
      v2c finalize --spec web01.yaml --vm web01      cut over, from another terminal
    """
    loaded = config_from(config)
    files = load_spec_files(*spec_files(spec, loaded))
    specs = [each for file in files for each in file.specs]
    # What is missing in any of the specs is reported before anything starts.
    resolve_all(specs, loaded)
    with _display(json) as display:
        for warning in (*loaded.warnings, *(item for each in specs for item in each.warnings)):
            display.note(f"warning: {warning}")
        job = _Run(loaded, files, parallel_vms, server, display)
        try:
            migrations = asyncio.run(interruptible(job.run(), job.on_interrupt))
        except Interrupted as exc:
            display.end(list(job.latest()))
            raise typer.Exit(EXIT_INTERRUPTED) from exc
        display.end(migrations)
    if any(migration.state != pb.STATE_DONE for migration in migrations):
        raise typer.Exit(EXIT_FAILED)


class _Run:
    """One `v2c run`."""

    def __init__(
        self,
        config: Config,
        files: Sequence[SpecFile],
        parallel_vms: int | None,
        server: str | None,
        display: Display,
    ) -> None:
        self._config = config
        self._files = files
        self._parallel_vms = parallel_vms
        self._server = server
        self._display = display
        self._at_server = False
        self._own_stack = False
        self._latest: dict[str, pb.Migration] = {}

    async def run(self) -> list[pb.Migration]:
        async with (
            self._serving() as address,
            orchestrator(self._config, address) as stub,
        ):
            submitted = await self._submit(stub, address)
            started = await self._start(stub, submitted)
            return await follow(stub, started, self, time.monotonic)

    def latest(self) -> Iterator[pb.Migration]:
        return iter(self._latest.values())

    def on_interrupt(self) -> None:
        if self._own_stack:
            self._display.note(
                "stopping; migrations keep their state: run the same command again to continue"
            )
        elif self._at_server:
            self._display.note("no longer watching; the migrations continue at the server")

    # The display of `follow`: remembers the last snapshots, for the summary of an interrupted run.

    def show(self, migration: pb.Migration) -> None:
        self._latest[migration.id] = migration
        self._display.show(migration)

    def note(self, text: str) -> None:
        self._display.note(text)

    def end(self, migrations: list[pb.Migration]) -> None:
        self._display.end(migrations)

    @contextlib.asynccontextmanager
    async def _serving(self) -> AsyncIterator[str]:
        """The address of an orchestrator: a running one, or one of our own."""
        address = self._server or self._config.agents.orchestrator
        if await answering(self._config, address):
            self._at_server = True
            yield address
            return
        if self._server is not None:
            raise CommandError(
                f"no orchestrator answers at {address}",
                "Check the address, and that v2c serve runs there.",
            )
        refuse_remote(address)
        check_vddk(self._config)
        self._own_stack = True
        self._display.note("no orchestrator runs yet; starting the services for this run")
        commands = local_services(self._config, gateway_listen=None)
        async with running_stack(self._config, commands, self._display.note):
            yield address

    async def _submit(self, stub: Stub, address: str) -> list[pb.Migration]:
        migrations: list[pb.Migration] = []
        for file in self._files:
            # A server elsewhere may be in another time zone: its copy names the offset.
            text = file.text if is_local(address) else dump_specs(file.specs)
            request = pb.SubmitSpecRequest(spec=text, source=str(file.path))
            response = await call(stub.SubmitSpec(request, timeout=_SUBMIT_SECONDS), peer=PEER)
            migrations += response.migrations
        return migrations

    async def _start(self, stub: Stub, migrations: Sequence[pb.Migration]) -> list[pb.Migration]:
        """Start what is new, retry what failed, resume what was paused, leave what is done."""
        current = {migration.id: migration for migration in migrations}
        for migration in migrations:
            selector = pb.Selector(migration_id=migration.id)
            label = migration.vm_name
            if migration.state == pb.STATE_FAILED:
                self._display.note(f"{label}: failed before; retrying it")
                retry = pb.RetryMigrationRequest(selector=selector)
                taken = await call(stub.RetryMigration(retry), peer=PEER)
                current[migration.id] = taken.migration
            elif migration.state == pb.STATE_PAUSED:
                self._display.note(f"{label}: was paused; resuming it")
                resume = pb.ResumeMigrationRequest(selector=selector)
                resumed = await call(stub.ResumeMigration(resume), peer=PEER)
                current[migration.id] = resumed.migration
        for first in range(0, len(migrations), _START_AT_ONCE):
            some = migrations[first : first + _START_AT_ONCE]
            request = pb.StartMigrationsRequest(
                selectors=[pb.Selector(migration_id=migration.id) for migration in some],
                parallel_vms=self._parallel_vms or 0,
            )
            started = await call(stub.StartMigrations(request), peer=PEER)
            current.update({migration.id: migration for migration in started.migrations})
        return list(current.values())


@contextlib.contextmanager
def _display(json: bool) -> Iterator[Display]:
    if json:
        yield JsonDisplay(sys.stdout)
        return
    console = Console()
    if not console.is_terminal or console.is_dumb_terminal:
        yield PlainDisplay(sys.stdout)
        return
    with LiveDisplay(console) as live:
        yield live


def check_vddk(config: Config) -> None:
    """Raises CommandError unless the disk agent to be started here can find the library."""
    folder = config.migration.vddk_path
    if not is_local(config.agents.disk):
        return
    libraries = [*folder.glob("lib64/libvixDiskLib.so*"), *folder.glob("libvixDiskLib.so*")]
    if not libraries:
        raise CommandError(
            f"migration.vddk_path: {folder} has no lib64/libvixDiskLib.so",
            "Unpack VMware's VDDK and give the folder that holds its lib64.",
        )
