"""CloudStack jobs: the job's id is committed before it is submitted, so that none runs twice."""

import uuid
from collections.abc import Callable, Collection
from dataclasses import replace

from sqlalchemy import select

from services.kit.failure import ReportedError, ServiceError
from services.orchestrator.database import tables
from services.orchestrator.errors import CloudstackJobFailed
from services.orchestrator.ports.cloudstack import Job, JobState
from services.orchestrator.ports.reasons import Reason
from services.orchestrator.tick import Tick

__all__ = ["run_job", "settle_jobs"]

_POLL_SECONDS = 0.3
# A failed job is repeated under a new id: under the old one CloudStack returns the failure again.
_Submit = Callable[[str], Job]


def run_job(tick: Tick, purpose: str, submit: _Submit) -> str:
    """Run the job for `purpose` once; returns the id of the resource it created or changed.

    A job that already succeeded is not submitted again. Raises ServiceError with CloudStack's own
    text if the job fails; the next call then submits a new job.
    """
    row = _intent(tick, purpose)
    if row.done:
        return row.resource_id
    job = _end(tick, row, submit(row.job_id))
    if job.state is not JobState.SUCCEEDED:
        raise _error(job, purpose)
    return job.resource_id


def settle_jobs(tick: Tick, ignored: Collection[str]) -> None:
    """Wait for jobs that an interrupted tick left running, so that what they create is known.

    Jobs for the `ignored` purposes are not waited for: the caller runs them itself afterwards.
    """
    for row in tick.fresh().jobs:
        if row.done or row.purpose in ignored:
            continue
        try:
            _end(tick, row, tick.agents.cloudstack.get_job(row.job_id))
        except ServiceError as exc:
            if exc.reason != Reason.JOB_NOT_FOUND:
                raise
            _forget(tick, row)


def _end(tick: Tick, row: tables.Job, job: Job) -> Job:
    """Wait for the job's end and record it."""
    while job.state is JobState.RUNNING:
        tick.pause(_POLL_SECONDS, heed_pause=False)
        job = tick.agents.cloudstack.get_job(row.job_id)
    if job.state is not JobState.SUCCEEDED:
        _forget(tick, row)
        return job
    with tick.change() as (session, _):
        kept = session.get_one(tables.Job, row.job_id)
        kept.done, kept.resource_id = True, job.resource_id
    return job


def _error(job: Job, purpose: str) -> ServiceError:
    known = {"job_id": job.job_id, "purpose": purpose}
    if job.failure is None:
        return CloudstackJobFailed(f"CloudStack's job for {purpose} failed", metadata=known)
    return ReportedError(replace(job.failure, metadata={**job.failure.metadata, **known}))


def _forget(tick: Tick, row: tables.Job) -> None:
    with tick.change() as (session, _):
        session.delete(session.get_one(tables.Job, row.job_id))


def _intent(tick: Tick, purpose: str) -> tables.Job:
    with tick.change() as (session, _):
        query = select(tables.Job).where(
            tables.Job.migration_id == tick.id, tables.Job.purpose == purpose
        )
        row = session.scalars(query).first()
        if row is None:
            row = tables.Job(
                job_id=str(uuid.uuid4()),
                migration_id=tick.id,
                purpose=purpose,
                resource_id="",
                done=False,
            )
            session.add(row)
        return row
