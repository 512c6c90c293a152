"""Asynchronous jobs of CloudStack with ids that the caller chooses.

Every asynchronous command has the undocumented parameter ``customjobid``: a lower-case UUID that
becomes the job's id. CloudStack refuses a second submit with it (431), so a submit whose answer
was lost can be repeated without running the command twice.
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
# Imports and attachments take seconds: poll often at first, then less, to spare the server.
_POLL_SECONDS: Final = (0.1, 0.2, 0.3, 0.5, 0.5, 1.0)
_LAST_POLL_SECONDS: Final = 2.0

Sleep = Callable[[float], Awaitable[None]]

_log = structlog.stdlib.get_logger(__name__)


class JobState(enum.Enum):
    """The states of a job."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True)
class Job:
    """One job. `existed` means that its effect existed already and no job was submitted."""

    job_id: str
    state: JobState
    command: str
    resource_id: str = ""
    failure: Failure | None = None
    create_time: datetime | None = None
    existed: bool = False


async def find_job(api: CloudStackApi, job_id: str) -> Job | None:
    """The job as CloudStack reports it, or None.

    Raises RequestInvalid unless `job_id` is a UUID.
    """
    if not _JOB_ID.fullmatch(job_id):
        raise RequestInvalid(
            message=f"job_id {job_id!r} is no lower-case UUID", metadata={"job_id": job_id}
        )
    try:
        row = await api.call("queryAsyncJobResult", {"jobid": job_id})
    except CloudStackParameterRefused:
        return None  # 431: no job has this id
    return _job(job_id, row)


async def get_job(api: CloudStackApi, job_id: str) -> Job:
    """As `find_job`, but raises JobNotFound instead of returning None."""
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
    """Submit `command` as job `job_id`, unless that job or its effect exists already.

    `effect` checks whether the command's effect exists and returns the id of the resource that
    was created or changed, or None. `parameters` may be a function, which is called only if the
    command is submitted. `resource_id` is the resource's id if the caller knows it. If a job with
    this id exists it is returned in its present state, even if it failed: a new attempt needs a
    new id.

    Raises CloudStack's refusal of the submit, and the errors of `effect` and `parameters`.
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
    """Yield the job now and at each change of state until it has ended. Raises JobNotFound."""
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
    """Wait until the job has succeeded. Raises the job's failure, or JobNotFound."""
    async for job in watch(api, job_id, sleep):
        if job.failure is not None:
            raise ReportedError(job.failure)


async def is_running(api: CloudStackApi, command: str) -> bool:
    """Whether any job of `command` is running, including those of other clients."""
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
        # The request was lost or is late. If it arrives after all, CloudStack refuses the second
        # one, which has the same job id.
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
    """The id of the object in the job's result, or else the job's instance id."""
    for key in result:
        found = text(child(result, key), "id")
        if found:
            return found
    return text(row, "jobinstanceid")


def _command(class_name: str) -> str:
    """The name of a command's class: ``importVm`` for ``org.apache.cloudstack.….ImportVmCmd``."""
    match = _COMMAND_CLASS.match(class_name)
    name = match["name"] if match else class_name
    return name[:1].lower() + name[1:]


def _time(created: str) -> datetime | None:
    try:
        return datetime.strptime(created, _CREATED_FORMAT)
    except ValueError:
        return None
