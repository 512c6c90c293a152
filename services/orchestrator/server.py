"""The orchestrator's composition root."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import grpc

from services.config import Config
from services.config.service_args import ServiceSetup, service_main
from services.kit.server import run_service
from services.kit.tls import TlsFiles
from services.orchestrator.adapters.caller import Caller
from services.orchestrator.adapters.cloudstack import CloudstackAgent
from services.orchestrator.adapters.disk import DiskAgent
from services.orchestrator.adapters.vmware import VmwareAgent
from services.orchestrator.controls.controls import Controls
from services.orchestrator.controls.marker_watch import MarkerWatch
from services.orchestrator.controls.submission import Submission
from services.orchestrator.controls.watch import Watch
from services.orchestrator.database.store import Store
from services.orchestrator.engine import Engine
from services.orchestrator.handlers import HANDLERS
from services.orchestrator.handlers.undo import undo
from services.orchestrator.housekeeping import Housekeeping
from services.orchestrator.ports.agents import Agents
from services.orchestrator.servicer import OrchestratorServicer
from services.orchestrator.signals import Signals
from services.orchestrator.ticker import Ticker
from services.orchestrator.work.passes import release_snapshot
from v2c.orchestrator.v1 import orchestrator_pb2 as pb
from v2c.orchestrator.v1 import orchestrator_pb2_grpc as rpc

__all__ = ["main"]

# Ticks stop at their next safe point, which comes after at most one call to an agent.
_STOP_SECONDS = 8


class _Orchestrator:
    """All objects of the process, and the order in which they are started and stopped."""

    def __init__(self, config: Config, tls: TlsFiles | None) -> None:
        url = config.database.url.get_secret_value()
        self._callers = [
            Caller(config.agents.vmware, tls, "vmware agent"),
            Caller(config.agents.disk, tls, "disk agent"),
            Caller(config.agents.cloudstack, tls, "cloudstack agent"),
        ]
        vmware, disk, cloudstack = self._callers
        agents = Agents(VmwareAgent(vmware), DiskAgent(disk), CloudstackAgent(cloudstack))
        self._signals = Signals()
        self._store = Store(url)
        submission = Submission(self._store, config)
        ticker = Ticker(
            self._store,
            agents,
            config,
            self._signals,
            HANDLERS,
            undo,
            release_snapshot,
            submission.read,
        )
        self._engine = Engine(url, ticker.run, self._signals)
        self._controls = Controls(self._store, self._signals, self._engine.submit)
        self._markers = MarkerWatch(self._store, self._controls)
        self._housekeeping = Housekeeping(
            self._store,
            agents.disk,
            self._engine.forget_finished,
            timedelta(days=config.migration.retention_days),
            unmount_when_done=config.storage.unmount_when_done,
        )
        self.servicer = OrchestratorServicer(
            self._store, self._controls, submission, Watch(self._store), agents
        )

    def start(self) -> None:
        """Upgrade the database schema and continue the migrations that are under way."""
        self._store.upgrade_schema()
        due = self._controls.recover()
        self._engine.start()
        for tick in due:
            self._engine.submit(tick)
        self._markers.start()
        self._housekeeping.start()

    def stop(self) -> None:
        """Stop ticks at safe points, then close everything."""
        self._signals.stop()
        self._housekeeping.stop()
        self._markers.stop()
        self._engine.stop(_STOP_SECONDS)
        for caller in self._callers:
            caller.close()
        self._store.close()


async def _serve(setup: ServiceSetup) -> None:
    orchestrator = _Orchestrator(setup.config, setup.tls)

    async def register(server: grpc.aio.Server) -> Sequence[str]:
        rpc.add_OrchestratorServiceServicer_to_server(orchestrator.servicer, server)
        return (pb.DESCRIPTOR.services_by_name["OrchestratorService"].full_name,)

    async def start() -> None:
        await asyncio.to_thread(orchestrator.start)

    async def stop() -> None:
        await asyncio.to_thread(orchestrator.stop)

    await run_service(
        "orchestrator",
        setup.listen,
        setup.tls,
        register,
        reflection=True,
        ready_file=setup.ready_file,
        metrics_listen=setup.metrics_listen,
        on_start=start,
        on_shutdown=stop,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the orchestrator's process; returns its exit status."""
    return service_main(
        "orchestrator", "runs the migrations: state machine, database, audit events", _serve, argv
    )
