"""Properties of folders, datacenters, clusters, hosts, datastores, networks and pools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyVmomi import vim

from lab.scenario import GIB, DatastoreSpec, VmSpec
from lab.vcenter.properties.registry import Properties
from lab.vcenter.world.inventory import Entity
from lab.vcenter.world.vm_state import now
from lab.vcenter.world.world import World, reference

_HOST_MEMORY = 256 * GIB
_HOST_CORES = 32
_HOST_MHZ = 2600

FOLDER: Properties[Entity] = Properties()
DATACENTER: Properties[Entity] = Properties()
CLUSTER: Properties[Entity] = Properties()
HOST: Properties[Entity] = Properties()
DATASTORE: Properties[Entity] = Properties()
NETWORK: Properties[Entity] = Properties()
POOL: Properties[Entity] = Properties()

ENTITIES: dict[type, Properties[Entity]] = {
    vim.Folder: FOLDER,
    vim.Datacenter: DATACENTER,
    vim.ClusterComputeResource: CLUSTER,
    vim.HostSystem: HOST,
    vim.Datastore: DATASTORE,
    vim.Network: NETWORK,
    vim.dvs.DistributedVirtualPortgroup: NETWORK,
    vim.ResourcePool: POOL,
}


def _linked(name: str) -> Callable[[World, Entity], Any]:
    def build(_world: World, entity: Entity) -> list[vim.ManagedEntity]:
        return [reference(other) for other in entity.links.get(name, [])]

    return build


def _linked_one(name: str) -> Callable[[World, Entity], Any]:
    def build(_world: World, entity: Entity) -> Any:
        return reference(entity.link(name))

    return build


def _name(_world: World, entity: Entity) -> str:
    return entity.name


def _parent(_world: World, entity: Entity) -> vim.ManagedEntity | None:
    return reference(entity.parent) if entity.parent else None


def _status(_world: World, _entity: Entity) -> str:
    return "green"


_LISTS: tuple[tuple[Properties[Entity], tuple[str, ...]], ...] = (
    (DATACENTER, ("datastore", "network")),
    (CLUSTER, ("host", "datastore", "network")),
    (HOST, ("vm", "datastore", "network")),
    (NETWORK, ("vm", "host")),
    (DATASTORE, ("vm",)),
    (POOL, ("vm",)),
)
_SINGLE: tuple[tuple[Properties[Entity], tuple[str, ...]], ...] = (
    (DATACENTER, ("vmFolder", "hostFolder", "datastoreFolder", "networkFolder")),
    (CLUSTER, ("resourcePool",)),
    (POOL, ("owner",)),
)


def _register() -> None:
    for properties in set(ENTITIES.values()):
        properties.of("name")(_name)
        properties.of("parent")(_parent)
        properties.of("overallStatus", "configStatus")(_status)
    for properties, names in _LISTS:
        for name in names:
            properties.of(name)(_linked(name))
    for properties, names in _SINGLE:
        for name in names:
            properties.of(name)(_linked_one(name))


_register()


@FOLDER.of("childEntity")
def _children(_world: World, entity: Entity) -> list[vim.ManagedEntity]:
    return [reference(child) for child in entity.children]


@FOLDER.of("childType")
def _child_type(_world: World, entity: Entity) -> list[type]:
    by_prefix: dict[str, list[type]] = {
        "group-d": [vim.Folder, vim.Datacenter],
        "group-v": [vim.Folder, vim.VirtualMachine],
        "group-h": [vim.Folder, vim.ComputeResource],
        "group-s": [vim.Folder, vim.Datastore],
        "group-n": [vim.Folder, vim.Network],
    }
    return by_prefix[entity.moref[:7]]


@CLUSTER.of("summary")
def _cluster_summary(_world: World, entity: Entity) -> vim.ClusterComputeResource.Summary:
    hosts = len(entity.links["host"])
    return vim.ClusterComputeResource.Summary(
        totalCpu=hosts * _HOST_CORES * _HOST_MHZ,
        totalMemory=hosts * _HOST_MEMORY,
        numCpuCores=hosts * _HOST_CORES,
        numCpuThreads=hosts * _HOST_CORES * 2,
        effectiveCpu=hosts * _HOST_CORES * _HOST_MHZ,
        effectiveMemory=hosts * _HOST_MEMORY // (1024 * 1024),
        numHosts=hosts,
        numEffectiveHosts=hosts,
        overallStatus="green",
        currentFailoverLevel=1,
        numVmotions=0,
    )


@HOST.of("runtime")
def _host_runtime(_world: World, _entity: Entity) -> vim.host.RuntimeInfo:
    return vim.host.RuntimeInfo(
        connectionState="connected", powerState="poweredOn", inMaintenanceMode=False
    )


@HOST.of("summary")
def _host_summary(world: World, entity: Entity) -> vim.host.Summary:
    return vim.host.Summary(
        host=reference(entity),
        hardware=vim.host.Summary.HardwareSummary(
            vendor="Lab",
            model="Simulated host",
            uuid="00000000-0000-0000-0000-" + entity.moref[-8:].rjust(12, "0").replace("-", "0"),
            memorySize=_HOST_MEMORY,
            cpuModel="Simulated CPU",
            cpuMhz=_HOST_MHZ,
            numCpuPkgs=2,
            numCpuCores=_HOST_CORES,
            numCpuThreads=_HOST_CORES * 2,
            numNics=2,
            numHBAs=1,
        ),
        runtime=_host_runtime(world, entity),
        config=vim.host.Summary.ConfigSummary(
            name=entity.name,
            port=902,
            product=host_product(),
            vmotionEnabled=True,
            faultToleranceEnabled=False,
        ),
        quickStats=vim.host.Summary.QuickStats(
            overallCpuUsage=1000, overallMemoryUsage=8192, uptime=86400
        ),
        overallStatus="green",
        rebootRequired=False,
    )


def host_product() -> vim.AboutInfo:
    """A host's AboutInfo."""
    return vim.AboutInfo(
        name="VMware ESXi",
        fullName="VMware ESXi 8.0.3 build-24022510 (simulated)",
        vendor="VMware, Inc.",
        version="8.0.3",
        build="24022510",
        osType="vmnix-x86",
        productLineId="embeddedEsx",
        apiType="HostAgent",
        apiVersion="8.0.3.0",
    )


@DATASTORE.of("summary")
def _datastore_summary(_world: World, entity: Entity) -> vim.Datastore.Summary:
    spec = entity.spec_as(DatastoreSpec)
    return vim.Datastore.Summary(
        datastore=reference(entity),
        name=entity.name,
        url=_url(entity),
        capacity=spec.capacity_bytes,
        freeSpace=_free_bytes(entity, spec),
        uncommitted=0,
        accessible=True,
        multipleHostAccess=True,
        type=spec.kind,
        maintenanceMode="normal",
    )


@DATASTORE.of("info")
def _datastore_info(_world: World, entity: Entity) -> Any:
    spec = entity.spec_as(DatastoreSpec)
    kind: type = vim.host.VmfsDatastoreInfo if spec.kind == "VMFS" else vim.Datastore.Info
    return kind(
        name=entity.name,
        url=_url(entity),
        freeSpace=_free_bytes(entity, spec),
        maxFileSize=64 * 1024 * GIB,
        maxVirtualDiskCapacity=62 * 1024 * GIB,
        maxMemoryFileSize=64 * 1024 * GIB,
        timestamp=now(),
    )


@DATASTORE.of("host")
def _mounts(_world: World, entity: Entity) -> list[vim.Datastore.HostMount]:
    return [
        vim.Datastore.HostMount(
            key=reference(host),
            mountInfo=vim.host.MountInfo(
                path=f"/vmfs/volumes/{entity.moref}",
                accessMode="readWrite",
                mounted=True,
                accessible=True,
            ),
        )
        for host in entity.links["host"]
    ]


@NETWORK.of("summary")
def _network_summary(_world: World, entity: Entity) -> vim.Network.Summary:
    return vim.Network.Summary(
        network=reference(entity), name=entity.name, accessible=True, ipPoolName=""
    )


@NETWORK.of("key")
def _portgroup_key(_world: World, entity: Entity) -> str:
    return entity.moref


@NETWORK.of("config")
def _portgroup_config(
    _world: World, entity: Entity
) -> vim.dvs.DistributedVirtualPortgroup.ConfigInfo:
    return vim.dvs.DistributedVirtualPortgroup.ConfigInfo(
        key=entity.moref, name=entity.name, numPorts=8, type="earlyBinding", configVersion="1"
    )


def _url(entity: Entity) -> str:
    return f"ds:///vmfs/volumes/{entity.moref}/"


def _free_bytes(entity: Entity, spec: DatastoreSpec) -> int:
    """Free space if every disk were fully allocated, but at least a tenth of the capacity."""
    used = sum(
        disk.capacity_bytes for vm in entity.links["vm"] for disk in vm.spec_as(VmSpec).disks
    )
    return max(spec.capacity_bytes - used, spec.capacity_bytes // 10)
