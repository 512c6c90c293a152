"""The services of one host as child processes: started in order, restarted, stopped in order."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.errors import CommandError
from cli.stack.lock import stack_lock
from cli.stack.service_process import ServiceCommand, ServiceFailed, ServiceProcess, why_it_ended
from services.config import Config
from services.config.service_args import tls_files
from services.kit.address import parse_address
from services.kit.tls import TlsFiles

__all__ = ["StackTimes", "local_services", "running_stack"]

_AGENTS = ("vmware", "disk", "cloudstack")
_MODULES = {
    "vmware": "services.vmware_agent",
    "disk": "services.disk_agent",
    "cloudstack": "services.cloudstack_agent",
    "orchestrator": "services.orchestrator",
    "gateway": "gateway",
}
_PROCESS_NAMES = {name: f"{name}_agent" for name in _AGENTS}


@dataclass(frozen=True, slots=True)
class StackTimes:
    """How patient the supervisor is, in seconds."""

    # Python and gRPC start in a second; a loaded host, or a database migration, takes longer.
    ready: float = 60.0
    # The disk agent gives its transfers 30 s to write their checkpoints.
    grace: float = 40.0
    first_backoff: float = 1.0
    longest_backoff: float = 30.0
    # A service that ran this long did not fail because of how it was started.
    stable: float = 60.0


def local_services(config: Config, *, gateway_listen: str | None) -> tuple[ServiceCommand, ...]:
    """The services to run on this host: those whose address is this host's, agents first.

    `gateway_listen` adds the gateway.
    """
    commands = []
    for name in (*_AGENTS, "orchestrator"):
        listen: str = getattr(config.agents, name)
        if parse_address(listen).is_local:
            process_name = _PROCESS_NAMES.get(name, name)
            commands.append(ServiceCommand(process_name, _MODULES[name], listen))
    if gateway_listen is not None:
        commands.append(ServiceCommand("gateway", _MODULES["gateway"], gateway_listen, grpc=False))
    return tuple(commands)


@contextlib.asynccontextmanager
async def running_stack(
    config: Config,
    commands: Sequence[ServiceCommand],
    note: Callable[[str], None],
    times: StackTimes | None = None,
) -> AsyncIterator[Mapping[str, str]]:
    """Run the services while the block runs; yields the address each is bound to, by its name.

    A service that ends is started again with a growing delay; `note` gets a line about it. When the
    block ends they are stopped in reverse order, the agents last. Raises CommandError when another
    stack uses the same control_dir or when a service does not start; everything is stopped then.
    """
    if config.path is None:
        raise ValueError("services read their config from a file")
    with stack_lock(config.migration.control_dir):
        stack = _Stack(config, config.path, note, times or StackTimes())
        try:
            await stack.start(commands)
            yield stack.addresses
        finally:
            # Also when cancelled: children must be gone before the lock is.
            await asyncio.shield(asyncio.create_task(stack.stop()))


class _Stack:
    """The children and the tasks that watch over them."""

    def __init__(
        self, config: Config, config_path: Path, note: Callable[[str], None], times: StackTimes
    ) -> None:
        self._control_dir = config.migration.control_dir
        self._config_path = config_path
        self._tls: TlsFiles | None = tls_files(config)
        self._note = note
        self._times = times
        self._running: dict[str, ServiceProcess] = {}
        self.addresses: dict[str, str] = {}
        self._watchers: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self, commands: Sequence[ServiceCommand]) -> None:
        """Agents together, then each other service; a watcher for every one."""
        agents = [command for command in commands if command.module.endswith("_agent")]
        others = [command for command in commands if command not in agents]
        for group in (agents, *([other] for other in others)):
            results = await asyncio.gather(
                *(self._spawn(command) for command in group), return_exceptions=True
            )
            failures = [result for result in results if isinstance(result, BaseException)]
            for failure in failures:
                if not isinstance(failure, ServiceFailed):
                    raise failure
            if failures:
                raise CommandError("\n     ".join(str(failure) for failure in failures))
        self._watchers = [asyncio.create_task(self._watch(command)) for command in commands]

    async def stop(self) -> None:
        """Stop in reverse order of the start; the agents together."""
        self._stopping = True
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        processes = list(reversed(self._running.values()))
        agents = [item for item in processes if item.command.module.endswith("_agent")]
        for process in processes:
            if process not in agents:
                await process.stop(self._times.grace)
        await asyncio.gather(*(process.stop(self._times.grace) for process in agents))

    async def _spawn(self, command: ServiceCommand) -> None:
        process = await ServiceProcess.start(command, self._config_path, self._control_dir)
        self._running[command.name] = process
        self.addresses[command.name] = await process.ready(
            self._control_dir, self._tls, self._times.ready
        )

    async def _watch(self, command: ServiceCommand) -> None:
        """Start `command` again whenever it ends."""
        loop = asyncio.get_running_loop()
        delay = self._times.first_backoff
        while True:
            started = loop.time()
            status = await self._running[command.name].wait()
            if self._stopping:
                return
            if loop.time() - started > self._times.stable:
                delay = self._times.first_backoff
            why = why_it_ended(command.name, status, self._control_dir)
            self._note(f"{why}; starting it again in {delay:.0f} s")
            await asyncio.sleep(delay)
            delay = min(2 * delay, self._times.longest_backoff)
            try:
                await self._spawn(command)
            except ServiceFailed as exc:
                # The loop sees the process' end, reports it, and starts it once more.
                self._note(str(exc))
                await self._running[command.name].kill()
            else:
                self._note(f"{command.name} is back")
