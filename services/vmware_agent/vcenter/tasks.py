"""Follows vCenter's tasks: one call per second reads all of them, whatever their number."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from pyVmomi import vim
from pyVmomi.VmomiSupport import ManagedObject

from services.kit.failure import ServiceError
from services.vmware_agent.errors import VCenterFault, VCenterTimeout
from services.vmware_agent.ports import Clock
from services.vmware_agent.vcenter.faults import translate
from services.vmware_agent.vcenter.property_collector import read_objects
from services.vmware_agent.vcenter.session import Connection, Session
from services.vmware_agent.vcenter.vmomi import moref, task
from services.vmware_agent.waiting import Deadline

_log = structlog.stdlib.get_logger(__name__)

# A snapshot is often made in a fraction of a second; a consolidation takes minutes.
_FIRST_POLL_SECONDS = 0.05
_LONGEST_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class _Waiter:
    action: str
    deadline: Deadline
    ended: "asyncio.Future[str]"


class Tasks:
    """Starts tasks and waits for them to end. For one event loop only."""

    def __init__(self, session: Session, clock: Clock) -> None:
        self._session = session
        self._clock = clock
        self._waiters: dict[str, _Waiter] = {}
        self._poll_seconds = _FIRST_POLL_SECONDS
        self._polling: asyncio.Task[None] | None = None

    async def run(
        self, action: str, start: Callable[[Connection], vim.Task], timeout_seconds: float
    ) -> str:
        """Start a task and wait for it; return the moref of its result, "" if it is not an object.

        Raises VCenterTimeout if the task has not ended in time (it continues in vCenter), or the
        error that its fault translates to.
        """
        deadline = Deadline(self._clock, timeout_seconds)
        started = await self._session.run(
            action, lambda connection: moref(start(connection)), repeat=False
        )
        return await self._wait(started, action, deadline)

    async def close(self) -> None:
        """Stop following tasks and cancel all waits."""
        for waiter in self._waiters.values():
            waiter.ended.cancel()
        self._waiters.clear()
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait([self._polling])

    async def _wait(self, started: str, action: str, deadline: Deadline) -> str:
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiters[started] = _Waiter(action, deadline, ended)
        self._poll_seconds = _FIRST_POLL_SECONDS
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        try:
            return await ended
        finally:
            self._waiters.pop(started, None)

    async def _poll(self) -> None:
        while self._waiters:
            await self._clock.sleep(self._poll_seconds)
            self._poll_seconds = min(2 * self._poll_seconds, _LONGEST_POLL_SECONDS)
            try:
                await self._read_once()
            except ServiceError as error:
                if not error.retryable:
                    self._fail_all(error)
                    return
                _log.warning(
                    "could not read tasks",
                    action="vcenter.tasks",
                    reason=error.reason,
                    error=error.message,
                )
            except (
                Exception
            ) as error:  # A bug: it is raised to the waiting callers, which would wait for ever.
                self._fail_all(error)
                return
            self._expire()

    async def _read_once(self) -> None:
        followed = list(self._waiters)
        infos = await self._session.run(
            "following tasks", lambda connection: _read_infos(connection, followed)
        )
        for name in followed:
            waiter = self._waiters.get(name)
            if waiter is not None and not waiter.ended.done():
                _settle(waiter, infos.get(name))

    def _expire(self) -> None:
        for waiter in self._waiters.values():
            if not waiter.ended.done() and waiter.deadline.remaining_seconds <= 0:
                waiter.ended.set_exception(
                    VCenterTimeout(message=f"{waiter.action}: vCenter has not finished in time")
                )

    def _fail_all(self, error: Exception) -> None:
        for waiter in self._waiters.values():
            if not waiter.ended.done():
                waiter.ended.set_exception(error)


def _read_infos(connection: Connection, names: list[str]) -> dict[str, vim.TaskInfo]:
    found = read_objects(connection, [task(connection.stub, name) for name in names], ["info"])
    return {
        one.moref: info
        for one in found
        if isinstance(info := one.properties.get("info"), vim.TaskInfo)
    }


def _settle(waiter: _Waiter, info: vim.TaskInfo | None) -> None:
    if info is None:
        # vCenter deletes tasks ten minutes after their end, and all tasks when it restarts.
        waiter.ended.set_exception(
            VCenterFault(
                message=f"{waiter.action}: vCenter no longer has the task",
                retryable=True,
                hint="repeat the call: it first checks what the task has done",
            )
        )
    elif info.state == "error":
        if info.error is None:
            error: ServiceError = VCenterFault(
                message=f"{waiter.action}: failed, no fault reported"
            )
        else:
            error = translate(info.error, waiter.action)
            error.__cause__ = info.error
        waiter.ended.set_exception(error)
    elif info.state == "success":
        result = info.result
        waiter.ended.set_result(moref(result) if isinstance(result, ManagedObject) else "")
