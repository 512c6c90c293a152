"""Reads the property values of managed objects, and serialises them."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import ManagedObject, Object

from lab.vcenter.methods.service import SERVICE, SESSION_MANAGER, service_content
from lab.vcenter.methods.tasks import Tasks
from lab.vcenter.methods.views import ContainerView, ListView
from lab.vcenter.properties.entities import ENTITIES
from lab.vcenter.properties.registry import Properties, check_path, property_privilege
from lab.vcenter.properties.vms import SNAPSHOT, VM
from lab.vcenter.soap import serialize
from lab.vcenter.world.sessions import Session, not_authenticated
from lab.vcenter.world.world import World, not_found

SESSION_OBJECTS = (
    vim.view.View,
    vmodl.query.PropertyCollector.Filter,
)
"""Types whose objects belong to a session and are removed with it."""


class Objects:
    """Reads properties that a session may read; the XML of VMs' properties is cached."""

    def __init__(self, world: World, tasks: Tasks) -> None:
        self._world = world
        self._tasks = tasks
        self._cache: dict[tuple[str, str, str], tuple[int, str]] = {}

    def exists(self, reference: ManagedObject, session: Session | None) -> None:
        """Raises ManagedObjectNotFound, or NotAuthenticated for a type that sessions own."""
        self._item(reference, session)

    def value(self, reference: ManagedObject, path: str, session: Session | None) -> object:
        """A property's value; None = unset. Raises InvalidProperty, ManagedObjectNotFound."""
        kind: Any = type(reference)
        check_path(kind, path)
        properties, item = self._item(reference, session)
        return properties.value(self._world, item, path)

    def names(self, reference: ManagedObject, session: Session | None) -> list[str]:
        """All top-level properties that the simulator has values for."""
        properties, _item = self._item(reference, session)
        return list(properties.names())

    def xml(
        self, reference: ManagedObject, path: str, session: Session | None, version: str
    ) -> str:
        """The property as a propSet element; empty if unset. VMs' are cached by revision."""
        record = self._world.vms.get(reference._moId)
        if record is None or not isinstance(reference, vim.VirtualMachine):
            return self._build_xml(reference, path, session, version)
        key = (record.moref, path, version)
        cached = self._cache.get(key)
        if cached is not None and cached[0] == record.revision:
            return cached[1]
        text = self._build_xml(reference, path, session, version)
        self._cache[key] = (record.revision, text)
        return text

    def _build_xml(
        self, reference: ManagedObject, path: str, session: Session | None, version: str
    ) -> str:
        value = self.value(reference, path, session)
        if value is None:
            return ""
        body = serialize(as_declared(type(reference), path, value), _VALUE, version)
        return f"<propSet><name>{path}</name>{body}</propSet>"

    def _item(
        self, reference: ManagedObject, session: Session | None
    ) -> tuple[Properties[Any], Any]:
        world = self._world
        if isinstance(reference, vim.VirtualMachine):
            return VM, world.vm(reference)
        if isinstance(reference, vim.vm.Snapshot):
            return SNAPSHOT, world.snapshot(reference)
        if isinstance(reference, vim.Task):
            task = self._tasks.get(reference._moId)
            if task is None:
                raise not_found(reference)
            return TASK, task
        if isinstance(reference, vim.ServiceInstance):
            return SERVICE, service_content(world)
        if isinstance(reference, vim.SessionManager):
            return SESSION_MANAGER, session
        if isinstance(reference, SESSION_OBJECTS):
            return VIEW, owned(reference, session)
        properties = ENTITIES.get(type(reference))
        if properties is None:
            return _NOTHING, reference
        return properties, world.entity(reference)


_VALUE = Object(name="val", type=object, version="vmodl.version.version0", flags=0)
_NOTHING: Properties[Any] = Properties()
TASK: Properties[Any] = Properties()
VIEW: Properties[Any] = Properties()


@TASK.of("info")
def _info(_world: World, task: Any) -> vim.TaskInfo:
    info: vim.TaskInfo = task.info()
    return info


@VIEW.of("view")
def _view(world: World, view: Any) -> list[ManagedObject]:
    return view.members(world) if isinstance(view, (ContainerView, ListView)) else []


def owned(reference: ManagedObject, session: Session | None) -> object:
    """An object of the session. Raises NotAuthenticated, ManagedObjectNotFound."""
    if session is None:
        raise not_authenticated(reference)
    found = session.objects.get(reference._moId)
    if found is None:
        raise not_found(reference)
    return found


def readable(reference: ManagedObject, path: str, session: Session | None) -> Exception | None:
    """None if the session may read the property, otherwise the fault with the reason."""
    kind: Any = type(reference)
    privilege = property_privilege(kind, path)
    if privilege == "System.Anonymous":
        return None
    if session is None:
        return not_authenticated(reference, privilege)
    if not session.allows(privilege):
        return no_permission(reference, privilege)
    return None


def no_permission(reference: ManagedObject, privilege: str) -> vim.fault.NoPermission:
    """The fault for a user that lacks a privilege."""
    return vim.fault.NoPermission(
        object=reference,
        privilegeId=privilege,
        msg="Permission to perform this operation was denied.",
    )


def as_declared(kind: type, path: str, value: object) -> object:
    """Turn Python's lists and strings into the arrays and enums that the type tables declare,
    because the XML of an ``anyType`` has its type's name."""
    current: Any = kind
    for name in path.split("."):
        current = current._GetPropertyInfo(name).type
    if isinstance(value, list) and issubclass(current, list):
        return current(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return value
    return value if type(value) is current else current(value)
