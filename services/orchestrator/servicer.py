"""Translates v2c.orchestrator.v1 to the domain and back; it makes no decisions."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import grpc
from sqlalchemy.exc import OperationalError

from services.config import ConfigError
from services.kit.details import DetailedError
from services.orchestrator import translate
from services.orchestrator.controls.controls import Controls
from services.orchestrator.controls.submission import Submission
from services.orchestrator.controls.watch import Watch
from services.orchestrator.database.store import Store
from services.orchestrator.errors import (
    AmbiguousMigration,
    DatabaseUnusable,
    InvalidField,
    SpecInvalid,
)
from services.orchestrator.ports.agents import Agents
from services.orchestrator.ports.cloudstack import PlacementKind
from v2c.orchestrator.v1 import orchestrator_pb2 as pb
from v2c.orchestrator.v1 import orchestrator_pb2_grpc as rpc

__all__ = ["OrchestratorServicer"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Context = grpc.aio.ServicerContext[Any, Any]

_PAGE = 500
_PAGE_LIMIT = 5000
_ALL = 100_000
_EVENT_POLL_SECONDS = 0.5
_ACTIONS = {
    pb.SHUTDOWN_ACTION_FORCE: "force",
    pb.SHUTDOWN_ACTION_MANUAL: "manual",
}


class OrchestratorServicer(rpc.OrchestratorServiceServicer):
    """The service; the database is read and written in threads, never on the loop."""

    def __init__(
        self, store: Store, controls: Controls, submission: Submission, watch: Watch, agents: Agents
    ) -> None:
        self._store = store
        self._controls = controls
        self._submission = submission
        self._watch = watch
        self._agents = agents

    async def CheckSpec(
        self, request: pb.CheckSpecRequest, context: _Context
    ) -> pb.CheckSpecResponse:
        try:
            specs = await _run(self._submission.check, request.spec, request.source or "spec")
        except ConfigError as exc:
            problems = [translate.problem_message(p) for p in exc.problems]
            return pb.CheckSpecResponse(problems=problems)
        ids = [await _run(self._submission.open_migration, spec) for spec in specs]
        return pb.CheckSpecResponse(
            vms=[
                pb.PlannedVm(vm_name=s.vm.name, vm_moref=s.vm.moref or "", migration_id=id_)
                for s, id_ in zip(specs, ids, strict=True)
            ]
        )

    async def SubmitSpec(
        self, request: pb.SubmitSpecRequest, context: _Context
    ) -> pb.SubmitSpecResponse:
        try:
            done = await _run(self._submission.submit, request.spec, request.source or "spec")
        except SpecInvalid as exc:
            raise DetailedError(exc.failure, translate.spec_invalid_message(exc)) from exc
        warnings = [translate.problem_message(warning) for warning in done.warnings]
        if not request.start:
            migrations = [translate.migration_message(view) for view in done.migrations]
            return pb.SubmitSpecResponse(migrations=migrations, warnings=warnings)
        for view in done.migrations:
            await _run(self._controls.start, view.id, _actor(context))
        migrations = [await self._message(view.id) for view in done.migrations]
        return pb.SubmitSpecResponse(migrations=migrations, warnings=warnings)

    async def StartMigrations(
        self, request: pb.StartMigrationsRequest, context: _Context
    ) -> pb.StartMigrationsResponse:
        if request.parallel_vms < 0:
            raise _invalid(
                "parallel_vms", str(request.parallel_vms), "give 1 or more, 0 for no change"
            )
        # Selectors are resolved first: a request with one that matches nothing changes nothing.
        ids = await self._ids(request.selectors)
        if request.parallel_vms:
            await _run(self._store.set_setting, "parallel_vms", str(request.parallel_vms))
        if not request.selectors:
            queued = await _run(self._store.list, states=("queued",), limit=_ALL)
            ids = [view.id for view in queued]
        for id_ in ids:
            await _run(self._controls.start, id_, _actor(context))
        return pb.StartMigrationsResponse(migrations=[await self._message(id_) for id_ in ids])

    async def GetMigration(
        self, request: pb.GetMigrationRequest, context: _Context
    ) -> pb.GetMigrationResponse:
        id_ = await self._id(request.selector)
        return pb.GetMigrationResponse(migration=await self._message(id_))

    async def ListMigrations(
        self, request: pb.ListMigrationsRequest, context: _Context
    ) -> pb.ListMigrationsResponse:
        size = _page_size(request.page_size)
        states = [state.value for state in translate.state_values(request.states)]
        views = await _run(
            self._store.list, states=states, after=request.page_token, limit=size + 1
        )
        return pb.ListMigrationsResponse(
            migrations=[translate.migration_message(view) for view in views[:size]],
            next_page_token=views[size - 1].id if len(views) > size else "",
        )

    async def WatchMigrations(
        self, request: pb.WatchMigrationsRequest, context: _Context
    ) -> AsyncIterator[pb.WatchMigrationsResponse]:
        async with self._watch.changes() as changes:
            ids = set(await self._ids(request.selectors))
            sent: dict[str, int] = {}
            for view in await _run(self._store.list, limit=_ALL):
                if not ids or view.id in ids:
                    sent[view.id] = view.revision
                    yield pb.WatchMigrationsResponse(migration=translate.migration_message(view))
            while True:
                view = await changes.get()
                if (not ids or view.id in ids) and view.revision > sent.get(view.id, 0):
                    sent[view.id] = view.revision
                    yield pb.WatchMigrationsResponse(migration=translate.migration_message(view))

    async def FinalizeMigration(
        self, request: pb.FinalizeMigrationRequest, context: _Context
    ) -> pb.FinalizeMigrationResponse:
        id_ = await self._id(request.selector)
        await _run(self._controls.finalize, id_, _actor(context), now=request.now)
        return pb.FinalizeMigrationResponse(migration=await self._message(id_))

    async def DecideShutdown(
        self, request: pb.DecideShutdownRequest, context: _Context
    ) -> pb.DecideShutdownResponse:
        id_ = await self._id(request.selector)
        action = _ACTIONS.get(request.action)
        if action is None:
            raise _invalid(
                "action",
                pb.ShutdownAction.Name(request.action),
                "give SHUTDOWN_ACTION_FORCE or SHUTDOWN_ACTION_MANUAL",
            )
        await _run(self._controls.decide_shutdown, id_, _actor(context), action)
        return pb.DecideShutdownResponse(migration=await self._message(id_))

    async def PauseMigration(
        self, request: pb.PauseMigrationRequest, context: _Context
    ) -> pb.PauseMigrationResponse:
        return pb.PauseMigrationResponse(
            migration=await self._control(self._controls.pause, request.selector, context)
        )

    async def ResumeMigration(
        self, request: pb.ResumeMigrationRequest, context: _Context
    ) -> pb.ResumeMigrationResponse:
        return pb.ResumeMigrationResponse(
            migration=await self._control(self._controls.resume, request.selector, context)
        )

    async def CancelMigration(
        self, request: pb.CancelMigrationRequest, context: _Context
    ) -> pb.CancelMigrationResponse:
        return pb.CancelMigrationResponse(
            migration=await self._control(self._controls.cancel, request.selector, context)
        )

    async def RetryMigration(
        self, request: pb.RetryMigrationRequest, context: _Context
    ) -> pb.RetryMigrationResponse:
        return pb.RetryMigrationResponse(
            migration=await self._control(self._controls.retry, request.selector, context)
        )

    async def RollbackMigration(
        self, request: pb.RollbackMigrationRequest, context: _Context
    ) -> pb.RollbackMigrationResponse:
        return pb.RollbackMigrationResponse(
            migration=await self._control(self._controls.rollback, request.selector, context)
        )

    async def ListEvents(
        self, request: pb.ListEventsRequest, context: _Context
    ) -> pb.ListEventsResponse:
        id_ = await self._optional_id(request)
        events = await _run(
            self._store.events, id_, request.after_sequence, _page_size(request.page_size)
        )
        name = await _run(self._store.vm_name_of, id_) if id_ else ""
        return pb.ListEventsResponse(
            events=[translate.event_message(e) for e in events], migration_id=id_, vm_name=name
        )

    async def WatchEvents(
        self, request: pb.WatchEventsRequest, context: _Context
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        id_ = await self._optional_id(request)
        after = request.after_sequence
        while True:
            for event in await _run(self._store.events, id_, after, _PAGE):
                after = event.sequence
                yield pb.WatchEventsResponse(event=translate.event_message(event))
            await asyncio.sleep(_EVENT_POLL_SECONDS)

    async def GetStateTable(
        self, request: pb.GetStateTableRequest, context: _Context
    ) -> pb.GetStateTableResponse:
        return translate.state_table()

    async def ListSourceVms(
        self, request: pb.ListSourceVmsRequest, context: _Context
    ) -> pb.ListSourceVmsResponse:
        vms, token = await _run(
            self._agents.vmware.list_vms,
            request.filter,
            _page_size(request.page_size),
            request.page_token,
        )
        return pb.ListSourceVmsResponse(
            vms=[translate.source_vm_message(vm) for vm in vms], next_page_token=token
        )

    async def ListTargetPlacements(
        self, request: pb.ListTargetPlacementsRequest, context: _Context
    ) -> pb.ListTargetPlacementsResponse:
        name = pb.PlacementKind.Name(request.kind).removeprefix("PLACEMENT_KIND_")
        if name == "UNSPECIFIED":
            raise _invalid("kind", name, "give one of the kinds of PlacementKind")
        placements = await _run(
            self._agents.cloudstack.placements,
            PlacementKind[name],
            request.zone_id,
            request.filter,
        )
        return pb.ListTargetPlacementsResponse(
            placements=[translate.placement_message(p) for p in placements]
        )

    async def _control(
        self, control: Callable[[str, str], None], selector: pb.Selector, context: _Context
    ) -> pb.Migration:
        id_ = await self._id(selector)
        await _run(control, id_, _actor(context))
        return await self._message(id_)

    async def _message(self, migration_id: str) -> pb.Migration:
        return translate.migration_message(await _run(self._store.get, migration_id))

    async def _ids(self, selectors: Sequence[pb.Selector]) -> list[str]:
        return [await self._id(selector) for selector in selectors]

    async def _optional_id(self, request: pb.ListEventsRequest | pb.WatchEventsRequest) -> str:
        return await self._id(request.selector) if request.HasField("selector") else ""

    async def _id(self, selector: pb.Selector) -> str:
        try:
            return await _run(
                self._store.find,
                migration_id=selector.migration_id,
                vm_moref=selector.vm_moref,
                vm_name=selector.vm_name,
                any_of=selector.any,
            )
        except AmbiguousMigration as exc:
            raise DetailedError(exc.failure, translate.ambiguity_message(exc)) from exc


async def _run(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    try:
        return await asyncio.to_thread(function, *args, **kwargs)
    except OperationalError as exc:
        raise DatabaseUnusable(
            message=f"the database cannot be used: {exc.orig}",
            hint="free space where the database is (control_dir, unless database.url differs), "
            "check that it is writable, and repeat the command",
        ) from exc


def _actor(context: _Context) -> str:
    """The caller: the name in the client's certificate, or its network address."""
    names = list(context.auth_context().get("x509_common_name", ()))
    return names[0].decode() if names else context.peer()


def _page_size(given: int) -> int:
    if not 0 <= given <= _PAGE_LIMIT:
        raise _invalid("page_size", str(given), f"give 1 to {_PAGE_LIMIT}, 0 means {_PAGE}")
    return given or _PAGE


def _invalid(field: str, value: str, hint: str) -> InvalidField:
    return InvalidField(
        f"{field}: {value!r} is not a valid value",
        hint=hint,
        metadata={"field": field, "value": value},
    )
