"""Labs for whole migrations: tiny disks, guests that write all the time."""

from __future__ import annotations

from lab.scenario import (
    MIB,
    ClusterSpec,
    Content,
    DatacenterSpec,
    DatastoreSpec,
    DiskSpec,
    NetworkSpec,
    NicSpec,
    Scenario,
    Tools,
    VmSpec,
    WriterSpec,
)


def disk(mib: int, *, ctk_enabled: bool | None = None) -> DiskSpec:
    """A disk of data, holes and allocated zeroes."""
    return DiskSpec(mib * MIB, content=Content.PATTERN, ctk_enabled=ctk_enabled)


def machine(
    name: str,
    *disks: int | DiskSpec,
    nics: int = 1,
    mac: str | None = None,
    tools: Tools = Tools.RUNNING,
    change_tracking: bool = False,
    folder: str = "",
) -> VmSpec:
    """A running machine; ``disks`` are sizes in MiB (one of 12 if none), or whole descriptions."""
    networks = ("VM Network", "Backend VLAN 20")[:nics]
    return VmSpec(
        name,
        folder=folder,
        disks=tuple(disk(d) if isinstance(d, int) else d for d in disks or (12,)),
        nics=tuple(NicSpec(network, mac=mac if i == 0 else None) for i, network in _each(networks)),
        tools=tools,
        change_tracking=change_tracking,
        writer=WriterSpec(rate_mib_per_second=0.5, seed=len(name)),
    )


def scenario(*vms: VmSpec, elsewhere: tuple[VmSpec, ...] = ()) -> Scenario:
    """A vCenter with these machines; ``elsewhere`` are in a second datacenter."""
    datacenters = [_datacenter("Test DC", vms)]
    if elsewhere:
        datacenters.append(_datacenter("Other DC", elsewhere))
    return Scenario("tests", tuple(datacenters))


def _datacenter(name: str, vms: tuple[VmSpec, ...]) -> DatacenterSpec:
    return DatacenterSpec(
        name,
        clusters=(ClusterSpec(f"{name} cluster", (f"esxi.{name[:4].lower()}.test",)),),
        # The lab distinguishes files by their datastore.
        datastores=(DatastoreSpec(f"{name} store"),),
        networks=(NetworkSpec("VM Network"), NetworkSpec("Backend VLAN 20", distributed=True)),
        vms=vms,
    )


def _each(networks: tuple[str, ...]) -> list[tuple[int, str]]:
    return list(enumerate(networks))
