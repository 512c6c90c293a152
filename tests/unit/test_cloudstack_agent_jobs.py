"""Jobs under ids of the caller's choice, and what a lost answer leads to."""

from __future__ import annotations

from typing import Any

import pytest

from services.cloudstack_agent import jobs
from services.cloudstack_agent.errors import (
    CloudStackAnswerLost,
    CloudStackLimitReached,
    CloudStackParameterRefused,
    CloudStackRestarted,
    RequestInvalid,
)
from services.kit.failure import Code
from tests.rigs.fakes.cloudstack_api import Answer, StubApi

JOB = "6f1e0c0a-90fd-4c1e-a6f6-3f6f2c8a5b11"
REFUSED = CloudStackParameterRefused(message="no such job, or used before")
LOST = CloudStackAnswerLost(message="no answer")


async def absent() -> str | None:
    return None


def row(status: int, **more: Any) -> dict[str, Any]:
    return {
        "jobstatus": status,
        "cmd": "org.apache.cloudstack.api.command.admin.volume.AttachVolumeCmdByAdmin",
        "created": "2026-07-01T12:00:00+0000",
    } | more


def prepared(query: list[Answer], attach: list[Answer]) -> StubApi:
    return StubApi({"queryAsyncJobResult": query, "attachVolume": attach})


async def attach(api: StubApi) -> jobs.Job:
    return await jobs.start(
        api, "attachVolume", {"id": "v"}, job_id=JOB, effect=absent, resource_id="v"
    )


async def test_a_new_job_carries_the_callers_id() -> None:
    api = prepared([REFUSED], [{"jobid": JOB}])
    job = await attach(api)
    assert (job.job_id, job.state, job.command) == (JOB, jobs.JobState.RUNNING, "attachVolume")
    assert api.sent("attachVolume") == [{"id": "v", "customjobid": JOB}]


async def test_a_known_job_is_returned_and_nothing_is_submitted() -> None:
    api = prepared([row(1, jobresult={"volume": {"id": "v"}})], [REFUSED])
    job = await attach(api)
    assert (job.state, job.resource_id) == (jobs.JobState.SUCCEEDED, "v")
    assert api.sent("attachVolume") == []


async def test_an_effect_that_is_there_is_not_made_again() -> None:
    async def present() -> str | None:
        return "vm-1"

    api = prepared([REFUSED], [REFUSED])
    job = await jobs.start(api, "attachVolume", {}, job_id=JOB, effect=present)
    assert (job.existed, job.state, job.resource_id) == (True, jobs.JobState.SUCCEEDED, "vm-1")
    assert api.sent("attachVolume") == []


async def test_a_lost_answer_finds_the_job_that_was_taken_on() -> None:
    api = prepared([REFUSED, row(0)], [LOST])
    assert (await attach(api)).state is jobs.JobState.RUNNING
    assert len(api.sent("attachVolume")) == 1


async def test_a_lost_request_is_sent_once_more() -> None:
    api = prepared([REFUSED], [LOST, {"jobid": JOB}])
    assert (await attach(api)).state is jobs.JobState.RUNNING
    assert len(api.sent("attachVolume")) == 2


async def test_a_request_that_arrived_late_refuses_the_second_one() -> None:
    api = prepared([REFUSED, REFUSED, row(0)], [LOST, REFUSED])
    assert (await attach(api)).state is jobs.JobState.RUNNING


async def test_a_refusal_after_a_lost_request_is_raised() -> None:
    api = prepared([REFUSED], [LOST, REFUSED])
    with pytest.raises(CloudStackParameterRefused):
        await attach(api)


async def test_a_refusal_at_submit_is_raised() -> None:
    api = prepared([REFUSED], [CloudStackLimitReached(message="enough")])
    with pytest.raises(CloudStackLimitReached):
        await attach(api)


@pytest.mark.parametrize("job_id", ["", "1", JOB.upper(), f"{JOB} ", "x" * 36])
async def test_ids_are_lower_case_uuids(job_id: str) -> None:
    with pytest.raises(RequestInvalid):
        await jobs.find_job(StubApi({}), job_id)


async def test_a_watch_shows_changes_and_slows_down() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    pending = [row(0)] * 8
    api = prepared([*pending, row(1, jobresult={"success": True}, jobinstanceid="v")], [])
    seen = [job async for job in jobs.watch(api, JOB, sleep)]
    assert [job.state for job in seen] == [jobs.JobState.RUNNING, jobs.JobState.SUCCEEDED]
    assert seen[-1].resource_id == "v"
    assert slept == sorted(slept)
    assert (len(slept), slept[-1]) == (8, 2.0)


@pytest.mark.parametrize("status", [2, 3])
async def test_a_failed_job_has_a_reason(status: int) -> None:
    text = "job cancelled because of management server restart or shutdown"
    failed = row(status, jobresult={"errorcode": 530, "errortext": text})
    job = await jobs.get_job(prepared([failed], []), JOB)
    assert (job.state, job.command) == (jobs.JobState.FAILED, "attachVolume")
    assert job.failure is not None
    assert (job.failure.reason, job.failure.code) == ("CLOUDSTACK_RESTARTED", Code.ABORTED)
    assert (job.failure.retryable, job.failure.hint) == (True, CloudStackRestarted.hint)
    assert job.failure.metadata["errortext"] == text
    assert job.create_time is not None
    assert job.create_time.year == 2026


async def test_running_jobs_of_a_command_are_seen() -> None:
    rows = [row(0, cmd="org.x.ImportVmCmd"), row(1, cmd="org.x.ImportVolumeCmd")]
    api = StubApi({"listAsyncJobs": {"asyncjobs": rows}})
    assert await jobs.is_running(api, "importVm")
    assert not await jobs.is_running(api, "importVolume")
