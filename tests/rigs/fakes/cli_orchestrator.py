"""An orchestrator for the CLI's tests: real gRPC on a unix socket, migrations in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from services.config import parse_specs
from services.orchestrator.errors import MigrationNotFound
from v2c.orchestrator.v1 import orchestrator_pb2 as pb
from v2c.orchestrator.v1 import orchestrator_pb2_grpc as pb_grpc

SERVICE = pb.DESCRIPTOR.services_by_name["OrchestratorService"].full_name


class FakeOrchestrator(pb_grpc.OrchestratorServiceServicer):
    """Every started migration goes the way of `script`: one snapshot per entry, then stays."""

    def __init__(self) -> None:
        self.migrations: dict[str, pb.Migration] = {}
        self.script: list[dict[str, Any]] = [
            {"stage": pb.STAGE_BASE_COPY, "state": pb.STATE_RUNNING},
            {"stage": pb.STAGE_DONE, "state": pb.STATE_DONE},
        ]
        self.calls: list[str] = []
        self.specs: list[str] = []
        self.parallel_vms = 0
        self.events: list[pb.Event] = []
        self._watched = 0

    def add(self, name: str, **fields: Any) -> None:
        self.migrations[name] = pb.Migration(
            **{"id": f"id-{name}", "vm_name": name, "stage": pb.STAGE_INIT, **fields}
        )

    def find(self, selector: pb.Selector) -> pb.Migration:
        for migration in self.migrations.values():
            given = (selector.migration_id, selector.vm_moref, selector.vm_name)
            if any(
                wanted and wanted == have
                for wanted, have in zip(
                    given, (migration.id, migration.vm_moref, migration.vm_name), strict=True
                )
            ):
                return migration
        raise MigrationNotFound(
            f"no migration of {selector.vm_name or selector.vm_moref!r}",
            hint="submit a spec for it",
        )

    async def SubmitSpec(self, request: pb.SubmitSpecRequest, context: Any) -> Any:
        self.specs.append(request.spec)
        found = []
        for spec in parse_specs(request.spec, request.source):
            if spec.vm.name not in self.migrations:
                self.add(spec.vm.name, state=pb.STATE_QUEUED)
            found.append(self.migrations[spec.vm.name])
        return pb.SubmitSpecResponse(migrations=found)

    async def StartMigrations(self, request: pb.StartMigrationsRequest, context: Any) -> Any:
        self.calls.append("start")
        self.parallel_vms = request.parallel_vms
        found = [self.find(selector) for selector in request.selectors]
        return pb.StartMigrationsResponse(migrations=found)

    async def GetMigration(self, request: pb.GetMigrationRequest, context: Any) -> Any:
        return pb.GetMigrationResponse(migration=self.find(request.selector))

    async def ListMigrations(self, request: pb.ListMigrationsRequest, context: Any) -> Any:
        every = list(self.migrations.values())
        start = int(request.page_token or 0)
        token = str(start + 1) if start + 1 < len(every) else ""
        return pb.ListMigrationsResponse(migrations=every[start : start + 1], next_page_token=token)

    async def WatchMigrations(
        self, request: pb.WatchMigrationsRequest, context: Any
    ) -> AsyncIterator[pb.WatchMigrationsResponse]:
        found = [self.find(selector) for selector in request.selectors]
        for step in self.script:
            for migration in found:
                migration.MergeFrom(pb.Migration(revision=1, **step))
                migration.revision = self._watched = self._watched + 1
                yield pb.WatchMigrationsResponse(migration=migration)
            await asyncio.sleep(0.01)
        await asyncio.Event().wait()

    async def FinalizeMigration(self, request: pb.FinalizeMigrationRequest, context: Any) -> Any:
        migration = self._called("finalize now" if request.now else "finalize", request.selector)
        return pb.FinalizeMigrationResponse(migration=migration)

    async def DecideShutdown(self, request: pb.DecideShutdownRequest, context: Any) -> Any:
        name = pb.ShutdownAction.Name(request.action)
        return pb.DecideShutdownResponse(migration=self._called(name, request.selector))

    async def RetryMigration(self, request: pb.RetryMigrationRequest, context: Any) -> Any:
        return pb.RetryMigrationResponse(migration=self._called("retry", request.selector))

    async def ResumeMigration(self, request: pb.ResumeMigrationRequest, context: Any) -> Any:
        return pb.ResumeMigrationResponse(migration=self._called("resume", request.selector))

    async def PauseMigration(self, request: pb.PauseMigrationRequest, context: Any) -> Any:
        return pb.PauseMigrationResponse(migration=self._called("pause", request.selector))

    async def CancelMigration(self, request: pb.CancelMigrationRequest, context: Any) -> Any:
        return pb.CancelMigrationResponse(migration=self._called("cancel", request.selector))

    async def RollbackMigration(self, request: pb.RollbackMigrationRequest, context: Any) -> Any:
        return pb.RollbackMigrationResponse(migration=self._called("rollback", request.selector))

    async def ListEvents(self, request: pb.ListEventsRequest, context: Any) -> Any:
        after = [event for event in self.events if event.sequence > request.after_sequence]
        return pb.ListEventsResponse(events=after[: request.page_size])

    async def ListSourceVms(self, request: pb.ListSourceVmsRequest, context: Any) -> Any:
        vms = [pb.SourceVm(name=f"vm{n}", moref=f"vm-{n}") for n in range(3)]
        start = int(request.page_token or 0)
        token = str(start + 2) if start + 2 < len(vms) else ""
        return pb.ListSourceVmsResponse(vms=vms[start : start + 2], next_page_token=token)

    async def ListTargetPlacements(
        self, request: pb.ListTargetPlacementsRequest, context: Any
    ) -> Any:
        name = pb.PlacementKind.Name(request.kind)
        return pb.ListTargetPlacementsResponse(
            placements=[pb.TargetPlacement(id=f"id-{name}", name=name)]
        )

    def _called(self, call: str, selector: pb.Selector) -> pb.Migration:
        migration = self.find(selector)
        self.calls.append(f"{call} {migration.vm_name}")
        return migration

    # What these tests do not use.
    CheckSpec: Callable[..., Any]
    WatchEvents: Callable[..., Any]
    GetStateTable: Callable[..., Any]


async def register(server: grpc.aio.Server, fake: FakeOrchestrator) -> list[str]:
    """For `services.kit.server.serving`."""
    pb_grpc.add_OrchestratorServiceServicer_to_server(fake, server)
    return [SERVICE]
