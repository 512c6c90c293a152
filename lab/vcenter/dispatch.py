"""Answers parsed requests: session, privileges, injected faults, handler."""

from __future__ import annotations

import logging

from pyVmomi import vim, vmodl

from lab.vcenter.collector.objects import Objects, no_permission
from lab.vcenter.collector.property_collector import collector_methods
from lab.vcenter.methods import power, reconfigure, service, snapshots, tracking, views
from lab.vcenter.methods.calls import Call, Methods
from lab.vcenter.methods.tasks import Tasks
from lab.vcenter.soap import Request
from lab.vcenter.world.faults import DROP, DropConnection, Injector, Rule, method_privilege
from lab.vcenter.world.sessions import Sessions, not_authenticated
from lab.vcenter.world.world import World

_log = logging.getLogger(__name__)

_ANONYMOUS = frozenset({"Fetch", "RetrievePropertiesEx", "RetrieveProperties"})
"""Calls that check privileges per property. pyVmomi's tables have System.Anonymous for them."""

_EXTRA_PRIVILEGES = {
    "ReconfigVM_Task": "VirtualMachine.Config.ChangeTracking",
    "Rename_Task": "VirtualMachine.Config.Rename",
    "Destroy_Task": "VirtualMachine.Inventory.Delete",
    "HasUserPrivilegeOnEntities": "System.View",
}
"""Calls whose privilege depends on the arguments, so that the tables have none for them."""


class Dispatcher:
    """Answers calls to one simulated vCenter."""

    def __init__(self, world: World, tasks: Tasks, sessions: Sessions, injector: Injector) -> None:
        self.world = world
        self.tasks = tasks
        self.sessions = sessions
        self._injector = injector
        self._methods = Methods()
        for part in (service, views, power, reconfigure, snapshots, tracking):
            self._methods.include(part.METHODS)
        self._methods.include(collector_methods(Objects(world, tasks)))

    def call(
        self, request: Request, session_key: str | None, address: str, user_agent: str
    ) -> tuple[object, str | None]:
        """Run one call; returns its result, and the session key for the cookie after a login.

        Raises vmodl.MethodFault, which is sent to the caller, and DropConnection, for which the
        connection is closed without an answer.
        """
        call = Call(
            world=self.world,
            tasks=self.tasks,
            sessions=self.sessions,
            session=self.sessions.use(session_key),
            method=request.method,
            this=request.this,
            params=request.params,
            version=request.version,
            address=address,
            user_agent=user_agent,
        )
        handler = self._methods.handlers.get(request.method)
        if handler is None:
            raise _unsupported(request)
        if self.world.settings.call_seconds:
            self.world.sleep(self.world.settings.call_seconds)
        self._check_privilege(call)
        drop = self._inject(call)
        try:
            result = handler(call)
        except vmodl.MethodFault:
            raise
        except Exception as bug:
            _log.exception("%s broke", request.method)
            raise vmodl.fault.SystemError(msg=str(bug), reason=type(bug).__name__) from bug
        if drop is not None:
            raise drop
        return result, call.new_cookie

    def _check_privilege(self, call: Call) -> None:
        if call.method in _ANONYMOUS:
            return
        privilege = _EXTRA_PRIVILEGES.get(call.method) or method_privilege(call.method)
        if privilege == "System.Anonymous":
            return
        if call.session is None:
            raise not_authenticated(call.this, privilege or "System.View")
        if privilege and not call.session.allows(privilege):
            raise no_permission(call.this, privilege)

    def _inject(self, call: Call) -> Exception | None:
        """Apply a rule for this call: wait, fail now, or return what to raise afterwards."""
        is_task = call.method.endswith("_Task")

        def accept(rule: Rule) -> bool:
            # As in a real vCenter, an injected fault fails the task, not the call that starts it.
            return rule.fault == DROP or not is_task

        injected = self._injector.take(call.method, _vm_of(call), accept)
        if injected is None:
            return None
        self.world.sleep(injected.delay_seconds)
        fault = injected.build(call.this)
        if fault is None:
            return None
        if not injected.after:
            raise fault
        return fault


def _vm_of(call: Call) -> str:
    """Moref of the VM that the call is about; empty if none."""
    if isinstance(call.this, vim.VirtualMachine):
        return str(call.this._moId)
    if isinstance(call.this, vim.vm.Snapshot):
        try:
            return call.world.snapshot(call.this)[0].moref
        except vmodl.fault.ManagedObjectNotFound:
            return ""
    return ""


def _unsupported(request: Request) -> vmodl.MethodFault:
    if request.info is None:
        return vmodl.fault.MethodNotFound(
            receiver=request.this,
            method=request.method,
            msg=f"No method {request.method} in this version of the API",
        )
    return vmodl.fault.NotSupported(
        msg=f"{request.method} is not supported by the lab's vCenter simulator"
    )


__all__ = ["Dispatcher", "DropConnection"]
