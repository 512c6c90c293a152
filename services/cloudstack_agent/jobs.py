"""Asynchronous jobs of CloudStack under ids that the caller chose.

``customjobid`` is a parameter that every asynchronous command takes without documenting it: a
lower-case UUID that becomes the job's id. A second submit with it is refused (431), so that a
submit whose answer was lost can be repeated without doing anything twice.
"""

from __future__ import annotations

import enum
import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import structlog

from services.cloudstack_agent.client.api import (
    CloudStackApi,
    Parameters,
    Row,
    child,
    list_rows,
    number,
    text,
)
from services.cloudstack_agent.client.refusals import refusal
from services.cloudstack_agent.errors import (
    CloudStackAnswerLost,
    CloudStackParameterRefused,
    JobNotFound,
    RequestInvalid,
)
from services.kit.failure import Failure, ReportedError

_JOB_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_COMMAND_CLASS: Final = re.compile(r"(?:.*\.)?(?P<name>\w+?)Cmd(?:ByAdmin)?$")
_CREATED_FORMAT: Final = "%Y-%m-%dT%H:%M:%S%z"
# Imports and attachments take seconds: look often at first, then spare the server.
_POLL_SECONDS: Final = (0.1, 0.2, 0.3, 0.5, 0.5, 1.0)
_LAST_POLL_SECONDS: Final = 2.0

Sleep = Callable[[float], Awaitable[None]]

_log = structlog.stdlib.get_logger(__name__)


class JobState(enum.Enum):
    """Where a job stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True)
class Job:
    """One job. `existed` means that its effect was there already and nothing was submitted."""

    job_id: str
    state: JobState
    command: str
    resource_id: str = ""
    failure: Failure | None = None
    create_time: datetime | None = None
    existed: bool = False


async def find_job(api: CloudStackApi, job_id: str) -> Job | None:
    """The job as CloudStack has it now, or None. Raises RequestInvalid for no lower-case UUID."""
    if not _JOB_ID.fullmatch(job_id):
        raise RequestInvalid(
            message=f"job_id {job_id!r} is no lower-case UUID", metadata={"job_id": job_id}
        )
    try:
        row = await api.call("queryAsyncJobResult", {"jobid": job_id})
    except CloudStackParameterRefused:
        return None  # 431: an id that names nothing
    return _job(job_id, row)


async def get_job(api: CloudStackApi, job_id: str) -> Job:
    """As `find_job`, but raises JobNotFound."""
    job = await find_job(api, job_id)
    if job is None:
        raise JobNotFound(message=f"CloudStack has no job {job_id}", metadata={"job_id": job_id})
    return job


async def start(
    api: CloudStackApi,
    command: str,
    parameters: Parameters | Callable[[], Awaitable[Parameters]],
    *,
    job_id: str,
    effect: Callable[[], Awaitable[str | None]],
    resource_id: str = "",
) -> Job:
    """Submit `command` as job `job_id`, unless that job or its effect is there already.

    `effect` looks for what the command would do and returns the id of what it made or changed,
    or None. `parameters` that take look-ups are a function, called only when they are needed.
    `resource_id` is the id of the effect where it is known beforehand. A job of this id is
    returned as it stands, also a failed one: another try takes another id.

    Raises what CloudStack refuses at submit, and what `effect` and `parameters` raise.
    """
    known = await find_job(api, job_id)
    if known is not None:
        return _named(known, command, resource_id)
    present = await effect()
    if present is not None:
        _log.info("already done", action="job.existed", command=command, job_id=job_id, id=present)
        return Job(job_id, JobState.SUCCEEDED, command, present, existed=True)
    values = await parameters() if callable(parameters) else parameters
    job = await _submit(api, command, {**values, "customjobid": job_id}, job_id)
    _log.info("job submitted", action="job.submitted", command=command, job_id=job_id)
    return _named(job, command, resource_id)


async def watch(api: CloudStackApi, job_id: str, sleep: Sleep) -> AsyncIterator[Job]:
    """The job now and at each change of its state, until it has ended. Raises JobNotFound."""
    shown: Job | None = None
    for pause in _pauses():
        job = await get_job(api, job_id)
        if shown is None or job.state is not shown.state:
            shown = job
            yield job
        if job.state is not JobState.RUNNING:
            return
        await sleep(pause)


async def wait(api: CloudStackApi, job_id: str, sleep: Sleep) -> None:
    """Return once the job has succeeded. Raises its failure, or JobNotFound."""
    async for job in watch(api, job_id, sleep):
        if job.failure is not None:
            raise ReportedError(job.failure)


async def is_running(api: CloudStackApi, command: str) -> bool:
    """Whether any job of `command` is under way, whoever submitted it."""
    rows = await list_rows(api, "listAsyncJobs", "asyncjobs", {"listall": "true"})
    return any(
        number(row, "jobstatus") == 0 and _command(text(row, "cmd")) == command for row in rows
    )


def _pauses() -> Iterator[float]:
    return itertools.chain(_POLL_SECONDS, itertools.repeat(_LAST_POLL_SECONDS))


async def _submit(
    api: CloudStackApi, command: str, parameters: Mapping[str, str], job_id: str
) -> Job:
    try:
        await api.call(command, parameters)
    except CloudStackAnswerLost:
        known = await find_job(api, job_id)
        if known is not None:
            return known
        # It did not arrive, or arrives late: with its id in it, a second one is refused then.
        await _submit_again(api, command, parameters, job_id)
    return Job(job_id, JobState.RUNNING, command)


async def _submit_again(
    api: CloudStackApi, command: str, parameters: Mapping[str, str], job_id: str
) -> None:
    try:
        await api.call(command, parameters)
    except CloudStackParameterRefused:
        if await find_job(api, job_id) is None:
            raise


def _named(job: Job, command: str, resource_id: str) -> Job:
    resource_id = resource_id if job.state is JobState.SUCCEEDED else ""
    return replace(job, command=command, resource_id=job.resource_id or resource_id)


def _job(job_id: str, row: Row) -> Job:
    command = _command(text(row, "cmd"))
    result = child(row, "jobresult")
    status = number(row, "jobstatus")
    state = {0: JobState.RUNNING, 1: JobState.SUCCEEDED}.get(status, JobState.FAILED)
    failure = None
    if state is JobState.FAILED:
        code = number(result, "errorcode", 530)
        failure = refusal(command, code, text(result, "errortext")).failure
    return Job(
        job_id,
        state,
        command,
        resource_id=_resource_id(row, result) if state is JobState.SUCCEEDED else "",
        failure=failure,
        create_time=_time(text(row, "created")),
    )


def _resource_id(row: Row, result: Row) -> str:
    """The id of the entity in the result (under its own name), else of the job's instance."""
    for key in result:
        found = text(child(result, key), "id")
        if found:
            return found
    return text(row, "jobinstanceid")


def _command(class_name: str) -> str:
    """``importVm`` from ``org.apache.cloudstack.….ImportVmCmd``."""
    match = _COMMAND_CLASS.match(class_name)
    name = match["name"] if match else class_name
    return name[:1].lower() + name[1:]


def _time(created: str) -> datetime | None:
    try:
        return datetime.strptime(created, _CREATED_FORMAT)
    except ValueError:
        return None
