"""The orchestrator as the routes call it; errors arrive as RemoteError."""

import asyncio
from collections.abc import Sequence

import grpc

from gateway import translation
from gateway.models import PlacementKind
from gateway.problems import ApiError
from services.kit.channel import call
from services.kit.errors import RemoteError
from services.kit.failure import Code
from v2c.orchestrator.v1 import orchestrator_pb2 as pb
from v2c.orchestrator.v1 import orchestrator_pb2_grpc as pb_grpc

PEER = "orchestrator"
# Lists of vCenter and CloudStack are asked for when they are wanted: they may take this long.
_INVENTORY_SECONDS = 90.0
# Starting may have to look at every machine of a fleet.
_SUBMIT_SECONDS = 60.0
_PAGE_SIZE = 500
_AMBIGUOUS_REASON = "AMBIGUOUS_MIGRATION"

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
    """Calls over one channel. Every method raises RemoteError."""

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

    async def check_spec(self, spec: str, source: str) -> Sequence[pb.Problem]:
        """What is wrong with a spec."""
        request = pb.CheckSpecRequest(spec=spec, source=source)
        response = await call(self._stub.CheckSpec(request, timeout=_SUBMIT_SECONDS), peer=PEER)
        return response.problems

    async def submit_spec(self, spec: str, source: str) -> Sequence[pb.Migration]:
        """Keep a spec: one migration per machine, not started."""
        request = pb.SubmitSpecRequest(spec=spec, source=source)
        response = await call(self._stub.SubmitSpec(request, timeout=_SUBMIT_SECONDS), peer=PEER)
        return response.migrations

    async def start(self, ids: Sequence[str], parallel_vms: int | None) -> Sequence[pb.Migration]:
        """Queue these migrations; all that were never started when `ids` is empty."""
        request = pb.StartMigrationsRequest(
            selectors=[pb.Selector(migration_id=entry) for entry in ids],
            parallel_vms=parallel_vms or 0,
        )
        response = await call(
            self._stub.StartMigrations(request, timeout=_SUBMIT_SECONDS), peer=PEER
        )
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

    async def events(self, migration_id: str, after: int, limit: int) -> Sequence[pb.Event]:
        """At most `limit` audit events of a migration with a number above `after`."""
        request = pb.ListEventsRequest(
            selector=pb.Selector(migration_id=migration_id), after_sequence=after, page_size=limit
        )
        return (await call(self._stub.ListEvents(request), peer=PEER)).events

    async def finalize(self, migration_id: str, *, now: bool) -> pb.Migration:
        """Ask for cutover."""
        request = pb.FinalizeMigrationRequest(
            selector=pb.Selector(migration_id=migration_id), now=now
        )
        return (await call(self._stub.FinalizeMigration(request), peer=PEER)).migration

    async def decide_shutdown(
        self, migration_id: str, action: pb.ShutdownAction.ValueType
    ) -> pb.Migration:
        """Answer a migration that waits for a shutdown decision."""
        request = pb.DecideShutdownRequest(
            selector=pb.Selector(migration_id=migration_id), action=action
        )
        return (await call(self._stub.DecideShutdown(request), peer=PEER)).migration

    async def retry(self, migration_id: str) -> pb.Migration:
        """Take a failed migration up again."""
        request = pb.RetryMigrationRequest(selector=pb.Selector(migration_id=migration_id))
        return (await call(self._stub.RetryMigration(request), peer=PEER)).migration

    async def find(self, vm: str) -> pb.Migration:
        """The one migration that `vm` means: its id, or its machine's moref or name.

        Raises ApiError 409 (AMBIGUOUS_VM) with the candidates when it may mean several, and
        RemoteError NOT_FOUND when it means none.
        """
        by_id, by_moref, by_name = await asyncio.gather(
            self._lookup(pb.Selector(migration_id=vm)),
            self._lookup(pb.Selector(vm_moref=vm)),
            self._lookup(pb.Selector(vm_name=vm)),
            return_exceptions=True,
        )
        found: dict[str, pb.Migration] = {}
        missing: RemoteError | None = None
        for result in (by_id, by_moref, by_name):
            if isinstance(result, pb.Migration):
                found[result.id] = result
            elif not isinstance(result, RemoteError):
                raise result
            elif result.reason == _AMBIGUOUS_REASON:
                found |= await self._all_of(vm)
            elif result.code is Code.NOT_FOUND:
                missing = result
            else:
                raise result
        if len(found) == 1:
            return next(iter(found.values()))
        if found or missing is None:
            oldest_first = sorted(
                found.values(), key=lambda entry: entry.create_time.ToNanoseconds()
            )
            raise ApiError(
                409,
                "AMBIGUOUS_VM",
                f"{vm!r} may mean {len(found)} migrations",
                hint="use the moref or the migration id of one of the candidates",
                candidates=[translation.candidate(entry) for entry in oldest_first],
            )
        raise missing

    async def _lookup(self, selector: pb.Selector) -> pb.Migration:
        response = await call(
            self._stub.GetMigration(pb.GetMigrationRequest(selector=selector)), peer=PEER
        )
        return response.migration

    async def _all_of(self, vm: str) -> dict[str, pb.Migration]:
        return {
            migration.id: migration
            for migration in await self.migrations()
            if vm in (migration.vm_name, migration.vm_moref)
        }
