"""Container and list views, and the search index."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from pyVmomi import vim
from pyVmomi.VmomiSupport import ManagedObject

from lab.vcenter.methods.calls import Call, Methods
from lab.vcenter.world.inventory import Entity
from lab.vcenter.world.vm_state import VmRecord
from lab.vcenter.world.world import World, not_found, reference

METHODS = Methods()


class View(Protocol):
    """A set of managed objects that a session has defined."""

    def members(self, world: World) -> list[ManagedObject]:
        """The objects in the view at this moment."""


@dataclass
class ContainerView:
    """The objects in a container; changes as the inventory changes."""

    container: Entity
    kinds: tuple[type, ...]
    recursive: bool
    _cached: tuple[int, list[ManagedObject]] = field(default=(-1, []), init=False)

    def members(self, world: World) -> list[ManagedObject]:
        """The container's children, or all its descendants, of the view's types."""
        with world.changed:
            nodes = self.container.descendants() if self.recursive else _contents(self.container)
            return [
                reference(node)
                for node in nodes
                if not self.kinds or issubclass(node.kind, self.kinds)
            ]


@dataclass
class ListView:
    """A list of objects that the client has given."""

    objects: list[ManagedObject]

    def members(self, _world: World) -> list[ManagedObject]:
        """The objects, in the client's order."""
        return list(self.objects)


def _contents(container: Entity) -> list[Entity]:
    if container.kind is vim.Datacenter:
        return [container.link(n) for n in ("vmFolder", "hostFolder", "datastoreFolder")]
    return container.children


@METHODS.handle("CreateContainerView")
def _create_container_view(call: Call) -> vim.view.ContainerView:
    container = call.world.entity(call.params.container)
    view = ContainerView(container, tuple(call.params.type), bool(call.params.recursive))
    name = call.login.name("view")
    call.login.objects[name] = view
    return vim.view.ContainerView(name)


@METHODS.handle("CreateListView")
def _create_list_view(call: Call) -> vim.view.ListView:
    name = call.login.name("view")
    call.login.objects[name] = ListView(list(call.params.obj))
    return vim.view.ListView(name)


@METHODS.handle("DestroyView")
def _destroy_view(call: Call) -> None:
    if call.login.objects.pop(call.this._moId, None) is None:
        raise not_found(call.this)


@METHODS.handle("FindByUuid")
def _find_by_uuid(call: Call) -> vim.ManagedEntity | None:
    return next(iter(_by_uuid(call)), None)


@METHODS.handle("FindAllByUuid")
def _find_all_by_uuid(call: Call) -> list[vim.ManagedEntity]:
    return _by_uuid(call)


@METHODS.handle("FindByInventoryPath")
def _find_by_inventory_path(call: Call) -> Any:
    node = call.world.inventory.root
    with call.world.changed:
        for name in filter(None, call.params.inventoryPath.split("/")):
            found = next((c for c in node.children if c.name == name), None)
            if found is None:
                return None
            node = found
        return reference(node)


@METHODS.handle("FindChild")
def _find_child(call: Call) -> vim.ManagedEntity | None:
    parent = call.world.entity(call.params.entity)
    with call.world.changed:
        found = next((c for c in parent.children if c.name == call.params.name), None)
        return reference(found) if found else None


@METHODS.handle("FindByIp", "FindByDnsName")
def _find_none(_call: Call) -> None:
    return None


@METHODS.handle("FindByDatastorePath")
def _find_by_datastore_path(call: Call) -> vim.VirtualMachine | None:
    for record in call.world.vms.values():
        if record.vmx_path == call.params.path and _inside(call, record):
            return vim.VirtualMachine(record.moref)
    return None


def _by_uuid(call: Call) -> list[vim.ManagedEntity]:
    if not call.params.vmSearch:
        return []
    wanted = call.params.uuid.lower()
    with call.world.changed:
        return [
            vim.VirtualMachine(record.moref)
            for record in call.world.vms.values()
            if (record.instance_uuid if call.params.instanceUuid else record.uuid) == wanted
            and _inside(call, record)
        ]


def _inside(call: Call, record: VmRecord) -> bool:
    datacenter = call.params.datacenter
    if datacenter is None:
        return True
    entity = call.world.inventory.get(record.moref)
    return entity is not None and any(n.moref == datacenter._moId for n in entity.ancestors())
