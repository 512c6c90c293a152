"""Submit, start, follow and control migrations."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request

from gateway import models, translation
from gateway.problems import SpecRejected, SpecTooLarge
from gateway.routes import FromOrchestrator, problems
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

router = APIRouter(prefix="/migration", tags=["migrations"])

# A spec of a thousand machines has about 400 kB.
_SPEC_LIMIT_BYTES = 4 * 1024 * 1024

Vm = Annotated[
    str,
    Path(
        description="The machine's name or moref, or the migration's id. A name that several "
        "machines have is answered with 409 and the candidates.",
        examples=["web-1", "vm-1042"],
    ),
]
Status = Literal[
    "queued", "running", "waiting", "paused", "failed", "cancelled", "rolled_back", "done"
]

_FOUND = {
    "_404": "There is no migration of this machine.",
    "_409": "The name is ambiguous (see `candidates`), or the call is not possible at this stage.",
}
_SPEC_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A spec as YAML or JSON: one machine at the top, or a list under `vms`.",
        "content": {
            "application/yaml": {
                "schema": {"type": "string"},
                "example": "vm:\n  name: web-1\nmigration:\n  delta_interval: 300\n"
                "target:\n  cloudstack:\n    zoneid: 5f0e…\n    networkid: 77c1…\n",
            },
            "application/json": {"schema": {"type": "object"}},
        },
    }
}


@router.post(
    "/spec",
    status_code=201,
    openapi_extra=_SPEC_BODY,
    responses=problems(
        _413="The body is too large.", _422="The spec has mistakes: see `errors`, with lines."
    ),
)
async def submit_spec(
    request: Request,
    orchestrator: FromOrchestrator,
    source: Annotated[
        str, Query(description="Name for error messages, usually the file's.", max_length=200)
    ] = "spec",
) -> models.SpecAccepted:
    """Check a spec and store it: one migration per machine, not started yet.

    Submitting a spec again changes the settings of its migrations where their stage allows it.
    """
    migrations, warnings = await orchestrator.submit_spec(await _body_text(request), source)
    return models.SpecAccepted(
        vms=[
            models.SubmittedVm(
                vm_name=entry.vm_name, vm_moref=entry.vm_moref or None, migration_id=entry.id
            )
            for entry in migrations
        ],
        warnings=[translation.spec_problem(warning) for warning in warnings],
    )


@router.post("/start", responses=problems(**_FOUND))
async def start(
    orchestrator: FromOrchestrator, wanted: models.StartRequest | None = None
) -> models.Started:
    """Put migrations into the queue: those named, or all that were never started."""
    wanted = wanted or models.StartRequest()
    migrations = await orchestrator.start(wanted.vms, wanted.parallel_vms)
    started = [translation.summary(entry) for entry in migrations]
    return models.Started(count=len(started), started=started)


@router.get("/jobs", responses=problems())
async def list_jobs(
    orchestrator: FromOrchestrator,
    status: Annotated[
        list[Status] | None, Query(description="Only these; repeat it for several.")
    ] = None,
) -> models.Jobs:
    """List migrations, oldest first."""
    states = translation.states_named(list(status or ()))
    jobs = [translation.summary(entry) for entry in await orchestrator.migrations(states)]
    return models.Jobs(count=len(jobs), jobs=jobs)


@router.get("/status/{vm:path}", responses=problems(**_FOUND))
async def get_status(orchestrator: FromOrchestrator, vm: Vm) -> models.MigrationStatus:
    """Read everything about one migration."""
    return translation.status(await orchestrator.get(vm))


@router.get("/logs/{vm:path}", responses=problems(**_FOUND))
async def get_logs(
    orchestrator: FromOrchestrator,
    vm: Vm,
    after: Annotated[int, Query(ge=0, description="Only entries with a higher number.")] = 0,
    limit: Annotated[int, Query(ge=1, le=5000, description="Most entries to return.")] = 500,
) -> models.Logs:
    """Read a migration's audit trail, oldest first."""
    found = await orchestrator.events(vm, after, limit)
    return models.Logs(
        migration_id=found.migration_id,
        vm_name=found.vm_name,
        entries=[translation.log_entry(event) for event in found.events],
    )


@router.post("/finalize/{vm:path}", responses=problems(**_FOUND))
async def finalize(
    orchestrator: FromOrchestrator,
    vm: Vm,
    now: Annotated[
        bool,
        Query(
            description="Without another delta pass before the shutdown; a running one is finished."
        ),
    ] = False,
) -> models.MigrationStatus:
    """Request the cutover. A second request changes nothing."""
    return translation.status(await orchestrator.finalize(vm, now=now))


@router.post("/shutdown/{vm:path}", responses=problems(**_FOUND))
async def decide_shutdown(
    orchestrator: FromOrchestrator,
    vm: Vm,
    action: Annotated[
        models.ShutdownAction,
        Query(description="`force`: power it off now. `manual`: wait until you have shut it down."),
    ],
) -> models.MigrationStatus:
    """Answer a migration at `awaiting_shutdown_action`."""
    chosen = {
        models.ShutdownAction.FORCE: pb.SHUTDOWN_ACTION_FORCE,
        models.ShutdownAction.MANUAL: pb.SHUTDOWN_ACTION_MANUAL,
    }[action]
    return translation.status(await orchestrator.decide_shutdown(vm, chosen))


@router.post("/retry/{vm:path}", responses=problems(**_FOUND))
async def retry(orchestrator: FromOrchestrator, vm: Vm) -> models.MigrationStatus:
    """Continue a failed migration at the stage where it failed."""
    return translation.status(await orchestrator.retry(vm))


async def _body_text(request: Request) -> str:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _SPEC_LIMIT_BYTES:
            raise SpecTooLarge(f"a spec has at most {_SPEC_LIMIT_BYTES} bytes")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise SpecRejected(f"the spec is not UTF-8: {exc}", hint="save it as UTF-8") from exc
    if not text.strip():
        raise SpecRejected(
            "the request has no body",
            hint="send the spec's text, for example with curl --data-binary @spec.yaml",
        )
    return text
