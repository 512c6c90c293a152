"""The lab's built-in scenarios: ``small``, ``demo`` and ``fleet``."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from lab.scenario import (
    GIB,
    MIB,
    Backing,
    ClusterSpec,
    Content,
    Controller,
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

FLEET_SIZE = 1000


class UnknownScenarioError(ValueError):
    """No built-in scenario has this name; the message lists the names."""


def built_in(name: str) -> Scenario:
    """The built-in scenario ``name``. Raises UnknownScenarioError."""
    builder = _BUILDERS.get(name)
    if builder is None:
        near = get_close_matches(name, _BUILDERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownScenarioError(f"no scenario {name!r}, there are {', '.join(_BUILDERS)}{hint}")
    return builder()


def names() -> tuple[str, ...]:
    """Names of the built-in scenarios."""
    return tuple(_BUILDERS)


def _demo() -> Scenario:
    web = VmSpec(
        name="web01",
        folder="Production/Web",
        guest_id="debian12_64Guest",
        guest_full_name="Debian GNU/Linux 12 (64-bit)",
        firmware="bios",
        cpus=1,
        memory_mib=512,
        disks=(DiskSpec(capacity_bytes=256 * MIB, content=Content.GUEST),),
        nics=(NicSpec("VM Network", mac="00:50:56:9a:00:01"),),
        writer=WriterSpec(rate_mib_per_second=1.0, seed=11),
    )
    app = VmSpec(
        name="app server 02",
        folder="Production/Applications & Data",
        guest_id="otherLinux64Guest",
        guest_full_name="Other Linux (64-bit)",
        firmware="efi",
        cpus=2,
        memory_mib=1024,
        disks=(
            DiskSpec(capacity_bytes=256 * MIB, content=Content.PATTERN),
            DiskSpec(capacity_bytes=128 * MIB, content=Content.PATTERN),
            DiskSpec(
                capacity_bytes=64 * MIB,
                content=Content.PATTERN,
                controller=Controller.LSILOGIC_SAS,
                bus=1,
            ),
        ),
        nics=(
            NicSpec("VM Network", mac="00:50:56:9a:00:02"),
            NicSpec("Backend VLAN 20", adapter="e1000e", mac="00:50:56:9a:00:03"),
        ),
        writer=WriterSpec(rate_mib_per_second=2.0, seed=22),
    )
    return Scenario("demo", (_datacenter("Lab-DC", (web, app)),))


def _small() -> Scenario:
    """One example of everything that is difficult in inventories."""
    tiny = 8 * MIB
    nic = NicSpec("VM Network")
    disk = DiskSpec(tiny, content=Content.PATTERN)
    east = (
        VmSpec("linux-bios", disks=(disk,), nics=(nic,), folder="Linux"),
        VmSpec(
            "windows uefi",
            disks=(disk, DiskSpec(tiny, controller=Controller.SATA, content=Content.PATTERN)),
            nics=(nic, NicSpec("Backend VLAN 20", adapter="e1000e")),
            folder="Windows/Tier 1",
            guest_id="windows2019srv_64Guest",
            guest_full_name="Microsoft Windows Server 2019 (64-bit)",
            firmware="efi",
            secure_boot=True,
        ),
        VmSpec(
            "many-controllers",
            disks=(
                disk,
                DiskSpec(tiny, controller=Controller.LSILOGIC, bus=1, content=Content.PATTERN),
                DiskSpec(tiny, controller=Controller.NVME, content=Content.PATTERN),
                DiskSpec(tiny, controller=Controller.IDE, content=Content.PATTERN),
                DiskSpec(tiny, controller=Controller.SATA, content=Content.EMPTY),
            ),
            nics=(NicSpec("VM Network", adapter="e1000"),),
            folder="Linux",
        ),
        VmSpec("twin", disks=(disk,), nics=(nic,), folder="Linux"),
        VmSpec("no tools", disks=(disk,), nics=(nic,), tools=Tools.NOT_INSTALLED),
        VmSpec("tools-stopped", disks=(disk,), nics=(nic,), tools=Tools.NOT_RUNNING),
        VmSpec("switched-off", disks=(disk,), nics=(nic,), powered_on=False),
        VmSpec(
            "independent-disk",
            disks=(disk, DiskSpec(tiny, mode="independent_persistent", content=Content.EMPTY)),
            nics=(nic,),
        ),
        VmSpec(
            "rdm",
            disks=(
                disk,
                DiskSpec(tiny, backing=Backing.RDM_PHYSICAL, content=Content.EMPTY),
                DiskSpec(tiny, backing=Backing.RDM_VIRTUAL, content=Content.EMPTY),
            ),
            nics=(nic,),
        ),
        VmSpec(
            "cluster-node",
            disks=(disk, DiskSpec(tiny, bus=1, content=Content.EMPTY)),
            nics=(nic,),
            shared_bus="physicalSharing",
        ),
        VmSpec(
            "one-disk-untracked",
            disks=(disk, DiskSpec(tiny, content=Content.PATTERN, ctk_enabled=False)),
            nics=(nic,),
            change_tracking=True,
        ),
        VmSpec("old-hardware", disks=(disk,), nics=(nic,), hardware_version="vmx-04"),
    )
    west = (
        VmSpec("twin", disks=(disk,), nics=(NicSpec("VM Network"),)),
        VmSpec("größe-ünïcode-数据库", disks=(disk,), nics=(NicSpec("Büro-Netz"),), folder="Büro"),
        VmSpec("slash%2fin%2fname", disks=(disk,), nics=(nic,), folder="R%2fD"),
    )
    return Scenario(
        "small",
        (
            _datacenter("East DC", east, folder="Europe"),
            DatacenterSpec(
                "West",
                clusters=(ClusterSpec("West-Cluster", ("esxi-w1.lab.test",)),),
                datastores=(DatastoreSpec("nfs store (west)", kind="NFS"),),
                networks=(NetworkSpec("VM Network"), NetworkSpec("Büro-Netz", distributed=True)),
                vms=west,
            ),
        ),
    )


def _fleet() -> Scenario:
    """1,000 VMs without content in nested folders, to test inventories and schedulers."""
    vms = tuple(_fleet_vm(number) for number in range(FLEET_SIZE))
    return Scenario(
        "fleet",
        (
            DatacenterSpec(
                "Fleet",
                clusters=tuple(
                    ClusterSpec(f"Cluster-{c}", tuple(f"esxi-{c}-{h}.lab.test" for h in range(4)))
                    for c in range(4)
                ),
                datastores=tuple(DatastoreSpec(f"vmfs-{n:02}", 16 * 1024 * GIB) for n in range(8)),
                networks=tuple(NetworkSpec(f"VLAN {100 + n}", n % 2 == 1) for n in range(10)),
                vms=vms,
            ),
        ),
    )


def _fleet_vm(number: int) -> VmSpec:
    windows = number % 3 == 0
    return VmSpec(
        name=f"vm-{number:04}",
        folder=f"Site {number // 250}/Team {number // 50 % 5}",
        datastore=f"vmfs-{number % 8:02}",
        guest_id="windows2019srv_64Guest" if windows else "rhel9_64Guest",
        guest_full_name=(
            "Microsoft Windows Server 2019 (64-bit)"
            if windows
            else "Red Hat Enterprise Linux 9 (64-bit)"
        ),
        firmware="efi" if number % 2 else "bios",
        tools=Tools.RUNNING if number % 10 else Tools.NOT_RUNNING,
        powered_on=number % 7 != 0,
        disks=tuple(
            DiskSpec((20 + 10 * n) * GIB, controller=Controller.PVSCSI)
            for n in range(1 + number % 3)
        ),
        nics=(NicSpec(f"VLAN {100 + number % 10}"),),
    )


def _datacenter(name: str, vms: tuple[VmSpec, ...], folder: str = "") -> DatacenterSpec:
    return DatacenterSpec(
        name,
        clusters=(ClusterSpec("Cluster A", ("esxi-01.lab.test", "esxi-02.lab.test")),),
        datastores=(DatastoreSpec("datastore1"), DatastoreSpec("ssd pool 2", 512 * GIB)),
        networks=(NetworkSpec("VM Network"), NetworkSpec("Backend VLAN 20", distributed=True)),
        vms=vms,
        folder=folder,
    )


_BUILDERS: dict[str, Callable[[], Scenario]] = {
    "demo": _demo,
    "small": _small,
    "fleet": _fleet,
}
