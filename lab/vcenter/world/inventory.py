"""The inventory tree: managed entities other than VMs' own state, built from a scenario.

Morefs are assigned in the scenario's order, so that they are the same after a restart.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import unquote

from pyVmomi import vim

from lab.scenario import (
    ClusterSpec,
    DatacenterSpec,
    DatastoreSpec,
    NetworkSpec,
    Scenario,
    VmSpec,
)

_NAMESPACE = uuid.UUID("6f0f3f0e-7a6a-4f5b-9a53-0d8e0c6d7b11")

T = TypeVar("T")
EntitySpec = DatacenterSpec | ClusterSpec | DatastoreSpec | NetworkSpec | VmSpec | None


@dataclass
class Entity:
    """A node of the inventory tree. ``kind`` is the vim class, ``children`` are in order."""

    moref: str
    kind: type
    name: str
    parent: Entity | None
    spec: EntitySpec = None
    children: list[Entity] = field(default_factory=list)
    links: dict[str, list[Entity]] = field(default_factory=dict)
    """Named references: a datacenter's vmFolder, a host's datastore, a VM's network …"""

    def link(self, name: str) -> Entity:
        """The one entity behind a single reference."""
        return self.links[name][0]

    def spec_as(self, kind: type[T]) -> T:
        """The entity's description in the scenario. Raises TypeError if it is not a ``kind``."""
        if not isinstance(self.spec, kind):
            raise TypeError(f"{self.moref} is not described by a {kind.__name__}")
        return self.spec

    def ancestors(self) -> Iterator[Entity]:
        """Parent, grandparent … up to the root folder."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    def descendants(self) -> Iterator[Entity]:
        """All below, parents before children."""
        for child in self.children:
            yield child
            yield from child.descendants()


class Inventory:
    """All entities by moref, and the root folder."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.instance_uuid = stable_uuid(scenario.name, "instance")
        self._by_moref: dict[str, Entity] = {}
        self._counters: dict[str, int] = {}
        self.root = self._add("group-d", vim.Folder, "Datacenters", None)
        for spec in scenario.datacenters:
            self._add_datacenter(spec)

    def get(self, moref: str) -> Entity | None:
        """The entity, or None."""
        return self._by_moref.get(moref)

    def __getitem__(self, moref: str) -> Entity:
        return self._by_moref[moref]

    def of_kind(self, kind: type) -> list[Entity]:
        """All entities of a vim class, in the order they were made."""
        return [entity for entity in self._by_moref.values() if issubclass(entity.kind, kind)]

    def remove(self, entity: Entity) -> None:
        """Remove a leaf from the tree and from every list that refers to it."""
        del self._by_moref[entity.moref]
        if entity.parent is not None:
            entity.parent.children.remove(entity)
        for other in self._by_moref.values():
            for entries in other.links.values():
                if entity in entries:
                    entries.remove(entity)

    def _add(
        self,
        prefix: str,
        kind: type,
        name: str,
        parent: Entity | None,
        spec: EntitySpec = None,
        *,
        child: bool = True,
    ) -> Entity:
        number = self._counters.get(prefix, 0) + 1
        self._counters[prefix] = number
        entity = Entity(f"{prefix}{number}", kind, name, parent, spec)
        self._by_moref[entity.moref] = entity
        if parent is not None and child:
            parent.children.append(entity)
        return entity

    def _folder(self, root: Entity, path: str, prefix: str) -> Entity:
        node = root
        for name in filter(None, path.split("/")):
            found = next(
                (c for c in node.children if c.name == name and c.kind is vim.Folder), None
            )
            node = found or self._add(prefix, vim.Folder, name, node)
        return node

    def _add_datacenter(self, spec: DatacenterSpec) -> None:
        parent = self._folder(self.root, spec.folder, "group-d")
        datacenter = self._add("datacenter-", vim.Datacenter, spec.name, parent, spec)
        folders = {
            link: self._add(prefix, vim.Folder, name, datacenter)
            for link, prefix, name in (
                ("vmFolder", "group-v", "vm"),
                ("hostFolder", "group-h", "host"),
                ("datastoreFolder", "group-s", "datastore"),
                ("networkFolder", "group-n", "network"),
            )
        }
        datacenter.links = {link: [folder] for link, folder in folders.items()}
        datastores = [
            self._add("datastore-", vim.Datastore, store.name, folders["datastoreFolder"], store)
            for store in spec.datastores
        ]
        networks = [self._add_network(net, folders["networkFolder"]) for net in spec.networks]
        datacenter.links |= {"datastore": datastores, "network": networks}
        hosts = [
            host
            for cluster in spec.clusters
            for host in self._add_cluster(cluster, folders["hostFolder"], datastores, networks)
        ]
        for shared in (*datastores, *networks):
            shared.links = {"host": list(hosts), "vm": []}
        for index, vm in enumerate(spec.vms):
            self._add_vm(vm, folders["vmFolder"], hosts[index % len(hosts)], datastores, networks)

    def _add_network(self, spec: NetworkSpec, folder: Entity) -> Entity:
        if spec.distributed:
            kind = vim.dvs.DistributedVirtualPortgroup
            return self._add("dvportgroup-", kind, spec.name, folder, spec)
        return self._add("network-", vim.Network, spec.name, folder, spec)

    def _add_cluster(
        self,
        spec: ClusterSpec,
        folder: Entity,
        datastores: list[Entity],
        networks: list[Entity],
    ) -> list[Entity]:
        cluster = self._add("domain-c", vim.ClusterComputeResource, spec.name, folder, spec)
        # The pool is a property of the cluster, not one of its children.
        pool = self._add("resgroup-", vim.ResourcePool, "Resources", cluster)
        hosts = [self._add("host-", vim.HostSystem, name, cluster) for name in spec.hosts]
        shared = {"datastore": datastores, "network": networks}
        cluster.links = {"host": hosts, "resourcePool": [pool], **shared}
        pool.links = {"owner": [cluster], "vm": []}
        for host in hosts:
            host.links = {"vm": [], "pool": [pool], **shared}
        return hosts

    def _add_vm(
        self,
        spec: VmSpec,
        folder: Entity,
        host: Entity,
        datastores: list[Entity],
        networks: list[Entity],
    ) -> None:
        parent = self._folder(folder, spec.folder, "group-v")
        vm = self._add("vm-", vim.VirtualMachine, spec.name, parent, spec)
        store = _named(datastores, spec.datastore) if spec.datastore else datastores[0]
        attached = [_named(networks, nic.network) for nic in spec.nics]
        distinct = list({network.moref: network for network in attached}.values())
        pool = host.link("pool")
        vm.links = {
            "host": [host],
            "resourcePool": [pool],
            "datastore": [store],
            "network": distinct,
            "nic": attached,
        }
        for owner in (host, pool, store, *distinct):
            owner.links["vm"].append(vm)


def _named(entities: list[Entity], name: str) -> Entity:
    for entity in entities:
        if entity.name == name:
            return entity
    raise ValueError(f"the scenario has no {name!r}, only {[e.name for e in entities]}")


def stable_uuid(*parts: str) -> str:
    """A uuid that depends only on the parts."""
    return str(uuid.uuid5(_NAMESPACE, "/".join(parts)))


def display_name(name: str) -> str:
    """The unescaped name: vSphere stores ``%``, ``/`` and ``\\`` escaped."""
    return unquote(name)
