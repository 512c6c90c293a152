"""The properties of VirtualMachine and VirtualMachineSnapshot."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pyVmomi import vim

from lab.esxi.model import EsxiError
from lab.scenario import Tools
from lab.vcenter.properties.devices import disk_backing_paths
from lab.vcenter.properties.registry import Properties
from lab.vcenter.properties.vm_config import CONFIG, SNAPSHOT_CONFIG
from lab.vcenter.world.vm_state import DiskRecord, SnapshotRecord, VmRecord, now
from lab.vcenter.world.world import POWERED_ON, World, reference

_TRACKING_SINCE_HARDWARE = 7
"""CBT needs hardware version 7 or later (VDDK Programming Guide, "Changed Block Tracking")."""

VM: Properties[VmRecord] = Properties()
VM.include(CONFIG)
SNAPSHOT: Properties[tuple[VmRecord, SnapshotRecord]] = Properties()
SNAPSHOT.include(SNAPSHOT_CONFIG)


def hardware_number(record: VmRecord) -> int:
    """7 for ``vmx-07``."""
    return int(record.spec.hardware_version.rpartition("-")[2])


def tracking_supported(record: VmRecord) -> bool:
    """Whether the hardware version allows CBT."""
    return hardware_number(record) >= _TRACKING_SINCE_HARDWARE


def tools_running(record: VmRecord) -> bool:
    """Whether VMware Tools answer now."""
    return record.power == POWERED_ON and record.spec.tools is Tools.RUNNING


@VM.of("name")
def _name(_world: World, record: VmRecord) -> str:
    return record.name


@VM.of("parent")
def _parent(world: World, record: VmRecord) -> vim.ManagedEntity | None:
    parent = world.place(record).parent
    return reference(parent) if parent else None


@VM.of("overallStatus", "configStatus")
def _status(_world: World, _record: VmRecord) -> str:
    return "green"


@VM.of("guestHeartbeatStatus")
def _heartbeat(_world: World, record: VmRecord) -> str:
    return "green" if tools_running(record) else "gray"


@VM.of("effectiveRole")
def _role(_world: World, _record: VmRecord) -> list[int]:
    return [-1]


@VM.of("capability")
def _capability(_world: World, record: VmRecord) -> vim.vm.Capability:
    return vim.vm.Capability(
        snapshotOperationsSupported=True,
        multipleSnapshotsSupported=True,
        snapshotConfigSupported=True,
        poweredOffSnapshotsSupported=True,
        memorySnapshotsSupported=True,
        revertToSnapshotSupported=False,
        quiescedSnapshotsSupported=True,
        changeTrackingSupported=tracking_supported(record),
        bootOptionsSupported=True,
        secureBootSupported=record.spec.firmware == "efi",
        diskSharesSupported=True,
    )


@VM.of("runtime")
def _runtime(world: World, record: VmRecord) -> vim.vm.RuntimeInfo:
    return vim.vm.RuntimeInfo(
        host=reference(world.place(record).link("host")),
        connectionState="connected",
        powerState=record.power,
        faultToleranceState="notConfigured",
        toolsInstallerMounted=False,
        bootTime=record.boot_time,
        maxCpuUsage=2000 * record.cpus,
        maxMemoryUsage=record.memory_mib,
        numMksConnections=0,
        recordReplayState="inactive",
        onlineStandby=False,
        consolidationNeeded=bool(record.unconsolidated),
        paused=False,
    )


@VM.of("runtime.powerState")
def _power(_world: World, record: VmRecord) -> str:
    return record.power


@VM.of("runtime.host")
def _host(world: World, record: VmRecord) -> Any:
    return reference(world.place(record).link("host"))


@VM.of("runtime.connectionState")
def _connection(_world: World, _record: VmRecord) -> str:
    return "connected"


@VM.of("runtime.consolidationNeeded")
def _consolidation_needed(_world: World, record: VmRecord) -> bool:
    return bool(record.unconsolidated)


@VM.of("guest")
def _guest(world: World, record: VmRecord) -> vim.vm.GuestInfo:
    running, spec = tools_running(record), record.spec
    entity = world.place(record)
    family = "windowsGuest" if spec.guest_id.startswith("win") else "linuxGuest"
    return vim.vm.GuestInfo(
        toolsStatus=_tools_status(record),
        toolsVersionStatus=_tools_version(record),
        toolsVersionStatus2=_tools_version(record),
        toolsRunningStatus="guestToolsRunning" if running else "guestToolsNotRunning",
        guestId=spec.guest_id if running else None,
        guestFamily=family if running else None,
        guestFullName=spec.guest_full_name if running else None,
        hostName=_host_name(record) if running else None,
        ipAddress=_address(record, 0) if running and spec.nics else None,
        net=[
            vim.vm.GuestInfo.NicInfo(
                network=entity.links["nic"][index].name,
                ipAddress=[_address(record, index)],
                macAddress=mac,
                connected=spec.nics[index].connected,
                deviceConfigId=4000 + index,
            )
            for index, mac in enumerate(record.macs)
            if running
        ],
        guestState="running" if running else "notRunning",
        guestOperationsReady=running,
        guestStateChangeSupported=running,
    )


@VM.of("guest.toolsRunningStatus")
def _tools_running_status(_world: World, record: VmRecord) -> str:
    return "guestToolsRunning" if tools_running(record) else "guestToolsNotRunning"


@VM.of("summary")
def _summary(world: World, record: VmRecord) -> vim.vm.Summary:
    running, spec = tools_running(record), record.spec
    size = sum(disk.capacity_bytes for disk in record.disks)
    return vim.vm.Summary(
        vm=vim.VirtualMachine(record.moref),
        runtime=_runtime(world, record),
        guest=vim.vm.Summary.GuestSummary(
            guestId=spec.guest_id if running else None,
            guestFullName=spec.guest_full_name if running else None,
            toolsStatus=_tools_status(record),
            toolsVersionStatus=_tools_version(record),
            toolsVersionStatus2=_tools_version(record),
            toolsRunningStatus=_tools_running_status(world, record),
            hostName=_host_name(record) if running else None,
            ipAddress=_address(record, 0) if running and spec.nics else None,
        ),
        config=_summary_config(world, record),
        storage=vim.vm.Summary.StorageSummary(
            committed=size, uncommitted=0, unshared=size, timestamp=now()
        ),
        quickStats=vim.vm.Summary.QuickStats(
            guestHeartbeatStatus=_heartbeat(world, record), uptimeSeconds=_uptime(record)
        ),
        overallStatus="green",
    )


@VM.of("summary.config")
def _summary_config(_world: World, record: VmRecord) -> vim.vm.Summary.ConfigSummary:
    spec = record.spec
    return vim.vm.Summary.ConfigSummary(
        name=record.name,
        template=spec.template,
        vmPathName=record.vmx_path,
        memorySizeMB=record.memory_mib,
        cpuReservation=0,
        memoryReservation=0,
        numCpu=record.cpus,
        numEthernetCards=len(spec.nics),
        numVirtualDisks=len(record.disks),
        uuid=record.uuid,
        instanceUuid=record.instance_uuid,
        guestId=spec.guest_id,
        guestFullName=spec.guest_full_name,
        annotation=record.annotation,
        hwVersion=spec.hardware_version,
    )


@VM.of("datastore")
def _datastore(world: World, record: VmRecord) -> list[vim.ManagedEntity]:
    return [reference(entity) for entity in world.place(record).links["datastore"]]


@VM.of("network")
def _network(world: World, record: VmRecord) -> list[vim.ManagedEntity]:
    return [reference(entity) for entity in world.place(record).links["network"]]


@VM.of("resourcePool")
def _resource_pool(world: World, record: VmRecord) -> Any:
    return reference(world.place(record).link("resourcePool"))


@VM.of("snapshot")
def _snapshot(_world: World, record: VmRecord) -> vim.vm.SnapshotInfo | None:
    if not record.snapshots:
        return None
    child: list[vim.vm.SnapshotTree] = []
    for snapshot in reversed(record.snapshots):
        node = vim.vm.SnapshotTree(
            snapshot=vim.vm.Snapshot(snapshot.moref),
            vm=vim.VirtualMachine(record.moref),
            name=snapshot.name,
            description=snapshot.description,
            id=snapshot.number,
            createTime=snapshot.created,
            state=snapshot.power,
            quiesced=snapshot.quiesced,
            childSnapshotList=child,
            replaySupported=False,
        )
        child = [node]
    return vim.vm.SnapshotInfo(
        currentSnapshot=vim.vm.Snapshot(record.snapshots[-1].moref), rootSnapshotList=child
    )


@VM.of("rootSnapshot")
def _root_snapshot(_world: World, record: VmRecord) -> list[vim.vm.Snapshot]:
    return [vim.vm.Snapshot(snapshot.moref) for snapshot in record.snapshots[:1]]


def _allocated(world: World, record: VmRecord) -> dict[int, int]:
    """Allocated bytes by disk key; empty while the ESXi side does not answer."""
    try:
        return {d.key: d.allocated_bytes for d in world.disks.disks() if d.vm == record.moref}
    except EsxiError:
        return {}


@VM.of("layoutEx")
def _layout(world: World, record: VmRecord) -> vim.vm.FileLayoutEx:
    allocated = _allocated(world, record)
    files: list[vim.vm.FileLayoutEx.FileInfo] = []

    def file(name: str, kind: str, size: int) -> int:
        info = vim.vm.FileLayoutEx.FileInfo(
            key=len(files), name=name, type=kind, size=size, uniqueSize=size, accessible=True
        )
        files.append(info)
        return len(files) - 1

    def chain(disk: DiskRecord) -> vim.vm.FileLayoutEx.DiskLayout:
        units = []
        # The base file is reported with the size of the whole chain; no client needs the parts.
        size = allocated.get(disk.key, 0) if disk.spec.thin else disk.capacity_bytes
        for path in reversed(disk_backing_paths(record, disk)):
            extent = f"{path.removesuffix('.vmdk')}-flat.vmdk"
            keys = [file(path, "diskDescriptor", 512)]
            keys.append(file(extent, "diskExtent", size))
            size = 0
            units.append(vim.vm.FileLayoutEx.DiskUnit(fileKey=keys))
        return vim.vm.FileLayoutEx.DiskLayout(key=disk.key, chain=units)

    file(record.vmx_path, "config", 3072)
    disks = [chain(disk) for disk in record.disks]
    return vim.vm.FileLayoutEx(file=files, disk=disks, timestamp=now())


@SNAPSHOT.of("vm")
def _snapshot_vm(_world: World, item: tuple[VmRecord, SnapshotRecord]) -> vim.VirtualMachine:
    return vim.VirtualMachine(item[0].moref)


@SNAPSHOT.of("childSnapshot")
def _children(_world: World, item: tuple[VmRecord, SnapshotRecord]) -> list[vim.vm.Snapshot]:
    record, snapshot = item
    after = record.snapshots.index(snapshot) + 1
    return [vim.vm.Snapshot(child.moref) for child in record.snapshots[after : after + 1]]


def _tools_status(record: VmRecord) -> str:
    if record.spec.tools is Tools.NOT_INSTALLED:
        return "toolsNotInstalled"
    return "toolsOk" if tools_running(record) else "toolsNotRunning"


def _tools_version(record: VmRecord) -> str:
    installed = record.spec.tools is not Tools.NOT_INSTALLED
    return "guestToolsUnmanaged" if installed else "guestToolsNotInstalled"


def _host_name(record: VmRecord) -> str:
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in record.name)
    return f"{plain.strip('-')}.lab.test"


def _address(record: VmRecord, nic: int) -> str:
    number = int(record.moref.rpartition("-")[2])
    return f"10.{nic}.{number // 250}.{number % 250 + 1}"


def _uptime(record: VmRecord) -> int:
    started: datetime | None = record.boot_time
    return int((now() - started).total_seconds()) if started else 0
