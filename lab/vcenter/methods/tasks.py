"""Tasks: long operations that run on threads of their own and report progress."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import GuessWsdlMethod

from lab.esxi.model import EsxiError
from lab.vcenter.world.faults import DROP, Injected, Injector, Rule
from lab.vcenter.world.vm_state import VmRecord, now
from lab.vcenter.world.world import World

_log = logging.getLogger(__name__)

KEPT_TASKS = 500
_STEPS = 5


@dataclass
class TaskRecord:
    """A task as its ``info`` shows it."""

    moref: str
    method: str
    description_id: str
    entity: str
    entity_name: str
    user: str
    queued: datetime
    state: str = "queued"
    progress: int | None = None
    started: datetime | None = None
    completed: datetime | None = None
    result: object = None
    error: Exception | None = None

    @property
    def reference(self) -> vim.Task:
        """A pyVmomi reference to the task."""
        return vim.Task(self.moref)

    def info(self) -> vim.TaskInfo:
        """The task as vSphere shows it."""
        return vim.TaskInfo(
            key=self.moref,
            task=self.reference,
            # The wire has the method's WSDL name; pyVmomi resolves it to the method.
            name=GuessWsdlMethod(self.method),
            descriptionId=self.description_id,
            entity=vim.VirtualMachine(self.entity),
            entityName=self.entity_name,
            state=self.state,
            cancelled=False,
            cancelable=False,
            progress=self.progress,
            result=self.result,
            error=self.error,
            reason=vim.TaskReasonUser(userName=self.user),
            queueTime=self.queued,
            startTime=self.started,
            completeTime=self.completed,
            eventChainId=int(self.moref.rpartition("-")[2]),
        )


class Tasks:
    """Starts tasks and keeps the newest ones."""

    def __init__(self, world: World, injector: Injector) -> None:
        self._world = world
        self._injector = injector
        self._records: dict[str, TaskRecord] = {}
        self._numbers = itertools.count(1)
        self._threads: set[threading.Thread] = set()

    def get(self, moref: str) -> TaskRecord | None:
        """The task, or None if it never existed or is no longer kept."""
        return self._records.get(moref)

    def recent(self, vm: str | None = None) -> list[TaskRecord]:
        """The tasks that are still kept, oldest first, of one VM or of all."""
        with self._world.changed:
            return [t for t in self._records.values() if vm is None or t.entity == vm]

    def run(
        self,
        method: str,
        record: VmRecord,
        user: str,
        effect: Callable[[], object],
        seconds: float | None = None,
    ) -> vim.Task:
        """Start ``effect`` as a task that locks the VM.

        If another task has locked it, the new task fails with TaskInProgress. The task shows
        progress for ``seconds`` (default: the setting task_seconds) before the effect.
        """
        world = self._world
        with world.changed:
            task = TaskRecord(
                moref=f"task-{next(self._numbers)}",
                method=method,
                description_id=_description_id(method),
                entity=record.moref,
                entity_name=record.name,
                user=user,
                queued=now(),
            )
            self._remember(task)
            if record.busy is not None:
                task.started = now()
                busy = vim.Task(record.busy)
                self._finish(
                    task,
                    error=vim.fault.TaskInProgress(
                        task=busy, msg="Another task is already in progress."
                    ),
                )
                return task.reference
            record.busy = task.moref
            world.notify()
        duration = world.settings.task_seconds if seconds is None else seconds
        thread = threading.Thread(
            target=self._run, args=(task, record, effect, duration), name=task.moref, daemon=True
        )
        self._threads.add(thread)
        thread.start()
        return task.reference

    def drain(self, timeout_seconds: float) -> None:
        """Wait for running tasks, so that a stop interrupts none of them."""
        for thread in tuple(self._threads):
            thread.join(timeout_seconds)

    def _run(
        self, task: TaskRecord, record: VmRecord, effect: Callable[[], object], seconds: float
    ) -> None:
        result, error = None, None
        try:
            self._progress(task, seconds)
            injected = self._injector.take(task.method, record.moref, _not_a_drop)
            if injected is not None and not injected.after:
                self._raise(injected, record)
            result = effect()
            if injected is not None and injected.after:
                self._raise(injected, record)
        except vmodl.MethodFault as fault:
            error = fault
        except EsxiError as refused:
            error = fault_of(refused, record)
        except Exception as bug:
            _log.exception("task %s (%s) broke", task.moref, task.method)
            error = vmodl.fault.SystemError(msg=str(bug), reason=type(bug).__name__)
        with self._world.changed:
            record.busy = None
            self._finish(task, result=None if error else result, error=error)
        self._threads.discard(threading.current_thread())

    def _progress(self, task: TaskRecord, seconds: float) -> None:
        with self._world.changed:
            task.state, task.started, task.progress = "running", now(), 0
            self._world.notify()
        for step in range(1, _STEPS):
            self._world.sleep(seconds / (_STEPS - 1))
            with self._world.changed:
                task.progress = 100 * step // _STEPS
                self._world.notify()

    def _raise(self, injected: Injected, record: VmRecord) -> None:
        self._world.sleep(injected.delay_seconds)
        fault = injected.build(vim.VirtualMachine(record.moref))
        if fault is not None:
            raise fault

    def _finish(
        self, task: TaskRecord, result: object = None, error: Exception | None = None
    ) -> None:
        task.state = "error" if error else "success"
        task.result, task.error, task.completed = result, error, now()
        task.progress = None if error else 100
        self._world.notify()

    def _remember(self, task: TaskRecord) -> None:
        self._records[task.moref] = task
        for moref in list(self._records)[:-KEPT_TASKS]:
            if self._records[moref].completed is not None:
                del self._records[moref]


def _not_a_drop(rule: Rule) -> bool:
    """Whether the rule concerns the task: a dropped connection concerns the call that starts it."""
    return rule.fault != DROP


def fault_of(refused: EsxiError, record: VmRecord) -> vmodl.MethodFault:
    """vCenter's fault for a refusal by a host."""
    if refused.kind == "file_fault":
        name = next((d.path for d in record.disks if d.path in refused.message), None)
        return vim.fault.FileFault(
            file=name or (record.disks[0].path if record.disks else ""),
            msg=f"Error caused by file {name or record.directory}: {refused.message}",
        )
    if refused.kind == "invalid_state":
        return vim.fault.InvalidState(msg=refused.message)
    if refused.kind == "invalid_argument":
        return vmodl.fault.InvalidArgument(msg=refused.message)
    if refused.kind == "not_found":
        return vim.fault.NotFound(msg=refused.message)
    if refused.kind == "unreachable":
        return vim.fault.HostConnectFault(msg=f"The host does not answer: {refused.message}")
    return vmodl.fault.SystemError(msg=refused.message, reason=refused.kind)


def _description_id(method: str) -> str:
    """vSphere's key for the operation, e.g. VirtualMachine.createSnapshot."""
    info = GuessWsdlMethod(method).info
    owner = info.type.__name__.rpartition(".")[2]
    return f"{owner}.{info.name[0].lower()}{info.name[1:]}"
