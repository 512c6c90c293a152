"""Asynchronous jobs: submitted, run in a thread, polled, failed by a restart."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from lab.cloudstack.errors import INTERNAL, ApiError, parameter_error
from lab.cloudstack.faults import FaultTable
from lab.cloudstack.store import Row, Store, new_id, now_text

# job.expire.minutes: a job's result is kept for a day.
_KEPT: Final = timedelta(days=1)
PENDING, DONE, FAILED = 0, 1, 2
_UUID: Final = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
RESTARTED: Final = "job cancelled because of management server restart or shutdown"


class JobRunner:
    """Runs asynchronous commands and stores their results in the ``job`` table."""

    def __init__(self, store: Store, faults: FaultTable, latency_seconds: float) -> None:
        self._store = store
        self._faults = faults
        self.latency_seconds = latency_seconds
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self.fail_running()

    def fail_running(self) -> None:
        """Fail every pending job, as a restart of the management server does."""
        with self._store.transaction():
            for job in self._store.rows("job"):
                if job["jobstatus"] == PENDING:
                    _finish(job, FAILED, INTERNAL, {"errorcode": INTERNAL, "errortext": RESTARTED})

    def submit(
        self,
        command: str,
        custom_id: str,
        account: Row,
        instance_id: str,
        work: Callable[[], Row],
    ) -> str:
        """Record a job and start it; ``work`` returns the job's result object.

        ``instance_id`` is the entity that the command was given, "" if it creates one.

        Raises:
            ApiError: 431 when ``custom_id`` is not a lower-case UUID or was used before.
        """
        if custom_id and not _UUID.match(custom_id):
            raise parameter_error(f"Invalid UUID {custom_id}")
        job_id = custom_id or new_id()
        with self._store.transaction():
            self._forget_old()
            if self._store.find("job", job_id) is not None:
                raise parameter_error(
                    f"There is already a job with the specified custom id {job_id}"
                )
            self._store.put(
                "job",
                {
                    "id": job_id,
                    "jobid": job_id,
                    "accountid": account["id"],
                    "account": account["name"],
                    "domainid": account["domainid"],
                    "cmd": f"org.apache.cloudstack.api.command.{command}Cmd",
                    "jobstatus": PENDING,
                    "jobprocstatus": 0,
                    "jobresultcode": 0,
                    "created": now_text(),
                    **({"jobinstanceid": instance_id} if instance_id else {}),
                },
            )
        thread = threading.Thread(
            target=self._run, args=(job_id, command, work), name=f"job {command}", daemon=True
        )
        self._threads = [*(t for t in self._threads if t.is_alive()), thread]
        thread.start()
        return job_id

    def _forget_old(self) -> None:
        limit = datetime.now(UTC) - _KEPT
        for job in self._store.rows("job"):
            completed = job.get("completed")
            if completed and datetime.strptime(completed, "%Y-%m-%dT%H:%M:%S%z") < limit:
                self._store.remove("job", job["id"])

    def stop(self) -> None:
        """End the threads of pending jobs; these jobs fail at the next start."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(timeout=5)

    def _run(self, job_id: str, command: str, work: Callable[[], Row]) -> None:
        if self._faults.take(command, "job_hang"):
            return
        delay = self._faults.take(command, "job_delay")
        if self._stopped.wait(self.latency_seconds + (delay.seconds if delay else 0.0)):
            return
        fail_before = self._faults.take(command, "job_fail")
        fail_after = None if fail_before else self._faults.take(command, "job_fail_after")
        try:
            if fail_before:
                raise ApiError(fail_before.code, fail_before.text)
            result = work()
            if fail_after:
                raise ApiError(fail_after.code, fail_after.text)
        except ApiError as error:
            outcome = {"errorcode": error.code, "errortext": error.text}
            self._record(job_id, FAILED, error.code, outcome)
        except Exception as error:
            # A bug of this server must end the job, or its caller would poll for ever.
            text = f"{type(error).__name__}: {error}"
            self._record(job_id, FAILED, INTERNAL, {"errorcode": INTERNAL, "errortext": text})
            raise
        else:
            self._record(job_id, DONE, 0, result)

    def _record(self, job_id: str, status: int, code: int, result: Row) -> None:
        with self._store.transaction():
            job = self._store.find("job", job_id)
            # A copy, because the entity may change after the job's end.
            result = copy.deepcopy(result)
            # A restart requested by a test may have failed the job meanwhile.
            if job is not None and job["jobstatus"] == PENDING:
                _finish(job, status, code, result)


def _finish(job: Row, status: int, code: int, result: Row) -> None:
    job.update(
        jobstatus=status,
        jobresultcode=code,
        jobresulttype="object",
        jobresult=result,
        completed=now_text(),
    )
