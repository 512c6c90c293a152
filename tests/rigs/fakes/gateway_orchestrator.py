"""An orchestrator in memory behind real gRPC: what the gateway's tests talk to."""

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from services.config import Problem
from services.kit.details import DetailedError
from services.kit.failure import ServiceError
from services.orchestrator.errors import (
    AmbiguousMigration,
    Candidate,
    ControlNotAllowed,
    MigrationNotFound,
    SpecInvalid,
)
from services.orchestrator.stages import Stage, State
from services.orchestrator.translate import (
    ambiguity_message,
    problem_message,
    spec_invalid_message,
)
from v2c.orchestrator.v1 import orchestrator_pb2 as pb
from v2c.orchestrator.v1 import orchestrator_pb2_grpc as pb_grpc


def migration(number: int, name: str, moref: str, **fields: Any) -> pb.Migration:
    return pb.Migration(
        id=f"m{number}",
        revision=number,
        vm_name=name,
        vm_moref=moref,
        stage=fields.pop("stage", pb.STAGE_INIT),
        next_stage=fields.pop("next_stage", pb.STAGE_CONNECTING_VCENTER),
        state=fields.pop("state", pb.STATE_QUEUED),
        create_time=Timestamp(seconds=1_700_000_000 + number),
        **fields,
    )


class FakeOrchestrator(pb_grpc.OrchestratorServiceServicer):
    """Answers from `stored`; `failure` is raised by every method while it is set."""

    def __init__(self) -> None:
        self.stored: list[pb.Migration] = []
        self.vms: list[pb.SourceVm] = []
        self.placements: list[pb.TargetPlacement] = []
        self.events: list[pb.Event] = []
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.requests: list[Any] = []
        self.request_ids: list[str] = []
        self.failure: ServiceError | None = None

    async def register(self, server: grpc.aio.Server) -> Sequence[str]:
        pb_grpc.add_OrchestratorServiceServicer_to_server(self, server)
        return ["v2c.orchestrator.v1.OrchestratorService"]

    def _note(self, request: Any, context: Any) -> None:
        self.requests.append(request)
        self.request_ids.append(dict(context.invocation_metadata())["x-request-id"])
        if self.failure is not None:
            raise self.failure

    def _find(self, selector: pb.Selector) -> pb.Migration:
        found = [
            entry
            for entry in self.stored
            if selector.any in (entry.id, entry.vm_moref, entry.vm_name)
        ]
        if not found:
            raise MigrationNotFound(message="no such migration", hint="list them")
        if len(found) > 1:
            candidates = tuple(
                Candidate(
                    entry.id,
                    entry.vm_name,
                    entry.vm_moref,
                    Stage(pb.Stage.Name(entry.stage).removeprefix("STAGE_").lower()),
                    State(pb.State.Name(entry.state).removeprefix("STATE_").lower()),
                )
                for entry in found
            )
            exc = AmbiguousMigration(selector.any, candidates)
            raise DetailedError(exc.failure, ambiguity_message(exc))
        return found[0]

    async def CheckSpec(self, request: Any, context: Any) -> pb.CheckSpecResponse:
        self._note(request, context)
        return pb.CheckSpecResponse(problems=[problem_message(p) for p in self.problems])

    async def SubmitSpec(self, request: Any, context: Any) -> pb.SubmitSpecResponse:
        self._note(request, context)
        if self.problems:
            exc = SpecInvalid(tuple(self.problems))
            raise DetailedError(exc.failure, spec_invalid_message(exc))
        self.stored.append(migration(len(self.stored) + 1, "web 1", ""))
        warnings = [problem_message(warning) for warning in self.warnings]
        return pb.SubmitSpecResponse(migrations=self.stored[-1:], warnings=warnings)

    async def StartMigrations(self, request: Any, context: Any) -> pb.StartMigrationsResponse:
        self._note(request, context)
        wanted = [self._find(selector) for selector in request.selectors] or self.stored
        for entry in wanted:
            entry.state = pb.STATE_RUNNING
        return pb.StartMigrationsResponse(migrations=wanted)

    async def GetMigration(self, request: Any, context: Any) -> pb.GetMigrationResponse:
        self._note(request, context)
        return pb.GetMigrationResponse(migration=self._find(request.selector))

    async def ListMigrations(self, request: Any, context: Any) -> pb.ListMigrationsResponse:
        self._note(request, context)
        found = [
            entry for entry in self.stored if not request.states or entry.state in request.states
        ]
        start = int(request.page_token or 0)
        end = start + min(request.page_size, 2)
        return pb.ListMigrationsResponse(
            migrations=found[start:end], next_page_token=str(end) if end < len(found) else ""
        )

    async def FinalizeMigration(self, request: Any, context: Any) -> pb.FinalizeMigrationResponse:
        self._note(request, context)
        found = self._find(request.selector)
        found.finalize_requested = True
        found.finalize_now_requested = found.finalize_now_requested or request.now
        return pb.FinalizeMigrationResponse(migration=found)

    async def DecideShutdown(self, request: Any, context: Any) -> pb.DecideShutdownResponse:
        self._note(request, context)
        found = self._find(request.selector)
        if found.stage != pb.STAGE_AWAITING_SHUTDOWN_ACTION:
            raise ControlNotAllowed(
                "there is nothing to decide at this stage", metadata={"stage": "delta"}
            )
        return pb.DecideShutdownResponse(migration=found)

    async def RetryMigration(self, request: Any, context: Any) -> pb.RetryMigrationResponse:
        self._note(request, context)
        found = self._find(request.selector)
        found.state = pb.STATE_QUEUED
        return pb.RetryMigrationResponse(migration=found)

    async def ListEvents(self, request: Any, context: Any) -> pb.ListEventsResponse:
        self._note(request, context)
        found = self._find(request.selector)
        events = [
            event
            for event in self.events
            if event.migration_id == found.id and event.sequence > request.after_sequence
        ]
        return pb.ListEventsResponse(
            events=events[: request.page_size], migration_id=found.id, vm_name=found.vm_name
        )

    async def ListSourceVms(self, request: Any, context: Any) -> pb.ListSourceVmsResponse:
        self._note(request, context)
        found = [vm for vm in self.vms if request.filter in vm.name]
        start = int(request.page_token or 0)
        end = start + request.page_size
        return pb.ListSourceVmsResponse(
            vms=found[start:end], next_page_token=str(end) if end < len(found) else ""
        )

    async def ListTargetPlacements(
        self, request: Any, context: Any
    ) -> pb.ListTargetPlacementsResponse:
        self._note(request, context)
        found = [
            entry
            for entry in self.placements
            if request.zone_id in ("", entry.zone_id) and request.filter in entry.name
        ]
        return pb.ListTargetPlacementsResponse(placements=found)
