"""The orchestrator as the routes call it; errors arrive as RemoteError."""

from collections.abc import Awaitable, Sequence
from typing import TypeVar

import grpc

from gateway import translation
from gateway.models import PlacementKind
from gateway.problems import SpecProblem, SpecRejected, VmAmbiguous
from services.kit.channel import call
from services.kit.errors import RemoteError
from v2c.orchestrator.v1 import orchestrator_pb2 as pb
from v2c.orchestrator.v1 import orchestrator_pb2_grpc as pb_grpc

PEER = "orchestrator"
# Lists of vCenter and CloudStack are read when a caller asks for them; this long may that take.
_INVENTORY_SECONDS = 90.0
# Both may have to look at every machine of a fleet.
_SUBMIT_SECONDS = 60.0
_PAGE_SIZE = 500
_T = TypeVar("_T")

_KINDS = {
    PlacementKind.ZONES: pb.PLACEMENT_KIND_ZONE,
    PlacementKind.CLUSTERS: pb.PLACEMENT_KIND_CLUSTER,
    PlacementKind.STORAGE: pb.PLACEMENT_KIND_STORAGE_POOL,
    PlacementKind.NETWORKS: pb.PLACEMENT_KIND_NETWORK,
    PlacementKind.DISK_OFFERINGS: pb.PLACEMENT_KIND_DISK_OFFERING,
    PlacementKind.SERVICE_OFFERINGS: pb.PLACEMENT_KIND_SERVICE_OFFERING,
    PlacementKind.OS_TYPES: pb.PLACEMENT_KIND_OS_TYPE,
}


class Orchestrator:
    """Calls over one channel; every method raises RemoteError. Each of them is one RPC per page."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = pb_grpc.OrchestratorServiceStub(channel)

    async def source_vms(self, text: str) -> list[pb.SourceVm]:
        """All machines at the source whose name or path contains `text`."""
        vms: list[pb.SourceVm] = []
        token = ""
        while True:
            request = pb.ListSourceVmsRequest(filter=text, page_size=_PAGE_SIZE, page_token=token)
            page = await call(
                self._stub.ListSourceVms(request, timeout=_INVENTORY_SECONDS), peer=PEER
            )
            vms += page.vms
            if not (token := page.next_page_token):
                return vms

    async def placements(
        self, kind: PlacementKind, zone_id: str, text: str
    ) -> Sequence[pb.TargetPlacement]:
        """What machines can be placed on, of one kind."""
        request = pb.ListTargetPlacementsRequest(kind=_KINDS[kind], zone_id=zone_id, filter=text)
        response = await call(
            self._stub.ListTargetPlacements(request, timeout=_INVENTORY_SECONDS), peer=PEER
        )
        return response.placements

    async def submit_spec(
        self, spec: str, source: str
    ) -> tuple[Sequence[pb.Migration], Sequence[pb.Problem]]:
        """Keep a spec: one migration per machine, not started; and what looks wrong in it.

        Raises SpecRejected for a spec with mistakes.
        """
        request = pb.SubmitSpecRequest(spec=spec, source=source)
        try:
            response = await call(
                self._stub.SubmitSpec(request, timeout=_SUBMIT_SECONDS), peer=PEER
            )
        except RemoteError as exc:
            details = exc.detail(pb.SpecInvalidDetails)
            if details is None:
                raise
            problems: Sequence[pb.Problem] = details.problems
            if details.more_count:  # They did not fit into a status.
                problems = await self._problems(spec, source) or problems
            if not problems:
                raise
            errors = [translation.spec_problem(problem) for problem in problems]
            raise SpecRejected(_rejection(source, errors), errors=errors) from exc
        return response.migrations, response.warnings

    async def _problems(self, spec: str, source: str) -> Sequence[pb.Problem]:
        request = pb.CheckSpecRequest(spec=spec, source=source)
        response = await call(self._stub.CheckSpec(request, timeout=_SUBMIT_SECONDS), peer=PEER)
        return response.problems

    async def start(self, vms: Sequence[str], parallel_vms: int | None) -> Sequence[pb.Migration]:
        """Queue the migrations of these machines; all that were never started when none is named.

        A machine is named as in `get`; nothing is started when one of them cannot be found.
        """
        request = pb.StartMigrationsRequest(
            selectors=[pb.Selector(any=vm) for vm in vms], parallel_vms=parallel_vms or 0
        )
        response = await self._found(self._stub.StartMigrations(request, timeout=_SUBMIT_SECONDS))
        return response.migrations

    async def migrations(self, states: Sequence[pb.State.ValueType] = ()) -> list[pb.Migration]:
        """All migrations in these states (none given: in any), oldest first."""
        migrations: list[pb.Migration] = []
        token = ""
        while True:
            request = pb.ListMigrationsRequest(
                states=states, page_size=_PAGE_SIZE, page_token=token
            )
            page = await call(self._stub.ListMigrations(request), peer=PEER)
            migrations += page.migrations
            if not (token := page.next_page_token):
                return migrations

    async def get(self, vm: str) -> pb.Migration:
        """The one migration that `vm` means: its id, or its machine's moref or name.

        Raises VmAmbiguous with the candidates when it may mean several, and RemoteError
        MIGRATION_NOT_FOUND when it means none; so do the methods below.
        """
        request = pb.GetMigrationRequest(selector=pb.Selector(any=vm))
        return (await self._found(self._stub.GetMigration(request))).migration

    async def events(self, vm: str, after: int, limit: int) -> pb.ListEventsResponse:
        """At most `limit` audit events of a migration with a number above `after`."""
        request = pb.ListEventsRequest(
            selector=pb.Selector(any=vm), after_sequence=after, page_size=limit
        )
        return await self._found(self._stub.ListEvents(request))

    async def finalize(self, vm: str, *, now: bool) -> pb.Migration:
        """Ask for cutover."""
        request = pb.FinalizeMigrationRequest(selector=pb.Selector(any=vm), now=now)
        return (await self._found(self._stub.FinalizeMigration(request))).migration

    async def decide_shutdown(self, vm: str, action: pb.ShutdownAction.ValueType) -> pb.Migration:
        """Answer a migration that waits for a shutdown decision."""
        request = pb.DecideShutdownRequest(selector=pb.Selector(any=vm), action=action)
        return (await self._found(self._stub.DecideShutdown(request))).migration

    async def retry(self, vm: str) -> pb.Migration:
        """Continue a failed migration."""
        request = pb.RetryMigrationRequest(selector=pb.Selector(any=vm))
        return (await self._found(self._stub.RetryMigration(request))).migration

    async def _found(self, answer: Awaitable[_T]) -> _T:
        """The answer of a call about machines. Raises VmAmbiguous for a name of several."""
        try:
            return await call(answer, peer=PEER)
        except RemoteError as exc:
            details = exc.detail(pb.AmbiguousMigrationDetails)
            if details is None:
                raise
            candidates: Sequence[pb.Candidate] = details.candidates
            if details.more_count:  # They did not fit into a status.
                candidates = await self._named(details.selector)
            raise VmAmbiguous(
                f"{details.selector!r} may mean {len(candidates)} migrations",
                [translation.candidate(entry) for entry in candidates],
            ) from exc

    async def _named(self, text: str) -> list[pb.Candidate]:
        """All migrations with this id, moref or name, oldest first."""
        return [
            pb.Candidate(
                id=entry.id,
                vm_name=entry.vm_name,
                vm_moref=entry.vm_moref,
                stage=entry.stage,
                state=entry.state,
            )
            for entry in await self.migrations()
            if text in (entry.id, entry.vm_moref, entry.vm_name)
        ]


def _rejection(source: str, errors: Sequence[SpecProblem]) -> str:
    first = errors[0]
    place = f"line {first.line}: " if first.line else ""
    field = f"{first.field}: " if first.field else ""
    mistakes = "mistake" if len(errors) == 1 else "mistakes"
    return f"{source} has {len(errors)} {mistakes}: {place}{field}{first.message}"
