"""Reads the names of all folders, hosts, networks and VMs."""

from collections.abc import Mapping
from dataclasses import dataclass

from pyVmomi import vim
from pyVmomi.VmomiSupport import ManagedObject

from services.vmware_agent.vcenter.property_collector import Found, read_everything
from services.vmware_agent.vcenter.session import Connection
from services.vmware_agent.vcenter.vmomi import moref
from services.vmware_agent.vm import VmEntry, unescape_name

_PARENTS = ["name", "parent"]
_PATHS: Mapping[type[ManagedObject], list[str]] = {
    vim.Datacenter: _PARENTS,
    vim.Folder: _PARENTS,
    vim.VirtualApp: ["name", "parent", "parentFolder"],
    vim.HostSystem: ["name"],
    vim.Network: ["name"],
    vim.OpaqueNetwork: ["name", "summary"],
    vim.dvs.DistributedVirtualPortgroup: ["name", "key"],
    vim.VirtualMachine: ["name", "parent", "parentVApp", "config.instanceUuid", "config.template"],
}
# No inventory is nested this deep; the limit ends a loop if parents form a cycle.
_DEEPEST_FOLDER = 100


@dataclass(frozen=True)
class Inventory:
    """Names by moref (networks by key), and every VM's entry."""

    folders: Mapping[str, tuple[str, str | None]]
    hosts: Mapping[str, str]
    networks: Mapping[str, str]
    entries: tuple[VmEntry, ...]

    def path(self, name: str, parent: str | None) -> str:
        """The inventory path of the object `name` (escaped as in vCenter) in `parent`."""
        parts = [name]
        while parent is not None and parent in self.folders and len(parts) < _DEEPEST_FOLDER:
            folder, parent = self.folders[parent]
            parts.append(folder)
        return "/" + "/".join(reversed(parts))


def read_inventory(connection: Connection) -> Inventory:
    """Read the whole inventory, with one property collector call per page. Blocking."""
    folders: dict[str, tuple[str, str | None]] = {}
    hosts: dict[str, str] = {}
    networks: dict[str, str] = {}
    machines: list[Found] = []
    root = moref(connection.content.rootFolder)
    for found in read_everything(connection, _PATHS):
        name = str(found.properties.get("name") or found.moref)
        if issubclass(found.kind, vim.VirtualMachine):
            machines.append(found)
        elif issubclass(found.kind, vim.HostSystem):
            hosts[found.moref] = name
        elif issubclass(found.kind, vim.Network):
            networks[_network_key(found)] = unescape_name(name)
        else:
            parent = parent_of(found)
            folders[found.moref] = (name, None if parent == root else parent)
    inventory = Inventory(folders, hosts, networks, ())
    return Inventory(folders, hosts, networks, tuple(_entry(one, inventory) for one in machines))


def parent_of(found: Found) -> str | None:
    """The moref of the object's folder, or of its vApp: VMs in a vApp may have no folder."""
    for path in ("parentVApp", "parentFolder", "parent"):
        parent = found.properties.get(path)
        if isinstance(parent, ManagedObject):
            return moref(parent)
    return None


def _network_key(found: Found) -> str:
    """The key by which an adapter's backing refers to the network, for a port group its moref."""
    summary = found.properties.get("summary")
    if isinstance(summary, vim.OpaqueNetwork.Summary):
        return summary.opaqueNetworkId
    return str(found.properties.get("key") or found.moref)


def _entry(found: Found, inventory: Inventory) -> VmEntry:
    name = str(found.properties.get("name") or found.moref)
    return VmEntry(
        moref=found.moref,
        instance_uuid=str(found.properties.get("config.instanceUuid") or ""),
        name=unescape_name(name),
        path=inventory.path(name, parent_of(found)),
        template=bool(found.properties.get("config.template")),
    )
