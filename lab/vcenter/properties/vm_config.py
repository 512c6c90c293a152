"""The ``config`` properties of a VM and of its snapshots."""

from __future__ import annotations

from pyVmomi import vim

from lab.scenario import Tools
from lab.vcenter.properties.devices import devices
from lab.vcenter.properties.registry import Properties
from lab.vcenter.world.vm_state import SnapshotRecord, VmRecord
from lab.vcenter.world.world import World

CONFIG: Properties[VmRecord] = Properties()
SNAPSHOT_CONFIG: Properties[tuple[VmRecord, SnapshotRecord]] = Properties()


@CONFIG.of("config")
def _config(world: World, record: VmRecord) -> vim.vm.ConfigInfo:
    return config(world, record, None)


@CONFIG.of("config.hardware")
def _hardware(world: World, record: VmRecord) -> vim.vm.VirtualHardware:
    return _hardware_of(world, record, None)


@CONFIG.of("config.hardware.device")
def _devices(world: World, record: VmRecord) -> list[vim.vm.device.VirtualDevice]:
    return devices(record, world.place(record))


@CONFIG.of("config.extraConfig")
def _extra_config(_world: World, record: VmRecord) -> list[vim.option.OptionValue]:
    return [vim.option.OptionValue(key=k, value=v) for k, v in record.extra_config.items()]


@CONFIG.of("config.changeTrackingEnabled")
def _change_tracking(_world: World, record: VmRecord) -> bool:
    return record.change_tracking


@CONFIG.of("config.keyId")
def _key_id(_world: World, _record: VmRecord) -> None:
    """No VM of the lab is encrypted."""


@CONFIG.of("config.name")
def _config_name(_world: World, record: VmRecord) -> str:
    return record.name


@CONFIG.of("config.uuid")
def _uuid(_world: World, record: VmRecord) -> str:
    return record.uuid


@CONFIG.of("config.instanceUuid")
def _instance_uuid(_world: World, record: VmRecord) -> str:
    return record.instance_uuid


@CONFIG.of("config.template")
def _template(_world: World, record: VmRecord) -> bool:
    return record.spec.template


@CONFIG.of("config.guestId")
def _guest_id(_world: World, record: VmRecord) -> str:
    return record.spec.guest_id


@CONFIG.of("config.guestFullName")
def _guest_full_name(_world: World, record: VmRecord) -> str:
    return record.spec.guest_full_name


@CONFIG.of("config.firmware")
def _firmware(_world: World, record: VmRecord) -> str:
    return record.spec.firmware


@CONFIG.of("config.version")
def _version(_world: World, record: VmRecord) -> str:
    return record.spec.hardware_version


@CONFIG.of("config.bootOptions")
def _boot_options(_world: World, record: VmRecord) -> vim.vm.BootOptions:
    return vim.vm.BootOptions(
        bootDelay=0,
        enterBIOSSetup=False,
        efiSecureBootEnabled=record.spec.secure_boot,
        bootRetryEnabled=False,
        bootRetryDelay=10000,
        networkBootProtocol="ipv4",
    )


@CONFIG.of("config.hardware.numCPU")
def _num_cpu(_world: World, record: VmRecord) -> int:
    return record.cpus


@CONFIG.of("config.hardware.memoryMB")
def _memory(_world: World, record: VmRecord) -> int:
    return record.memory_mib


def _hardware_of(
    world: World, record: VmRecord, snapshot: SnapshotRecord | None
) -> vim.vm.VirtualHardware:
    return vim.vm.VirtualHardware(
        numCPU=record.cpus,
        numCoresPerSocket=1,
        memoryMB=record.memory_mib,
        virtualICH7MPresent=False,
        virtualSMCPresent=False,
        device=devices(record, world.place(record), snapshot),
    )


def config(world: World, record: VmRecord, snapshot: SnapshotRecord | None) -> vim.vm.ConfigInfo:
    """The present configuration, or that of a snapshot, with the disks at its time."""
    spec = record.spec
    entity = world.place(record)
    store = entity.link("datastore")
    return vim.vm.ConfigInfo(
        changeVersion=str(record.revision),
        modified=snapshot.created if snapshot else record.created,
        name=record.name,
        guestFullName=spec.guest_full_name,
        version=spec.hardware_version,
        uuid=record.uuid,
        createDate=record.created,
        instanceUuid=record.instance_uuid,
        template=spec.template,
        guestId=spec.guest_id,
        alternateGuestName="",
        annotation=record.annotation,
        files=vim.vm.FileInfo(
            vmPathName=record.vmx_path,
            snapshotDirectory=f"{record.directory}/",
            suspendDirectory=f"{record.directory}/",
            logDirectory=f"{record.directory}/",
        ),
        tools=vim.vm.ToolsConfigInfo(
            toolsVersion=0 if spec.tools is Tools.NOT_INSTALLED else 12352
        ),
        flags=vim.vm.FlagInfo(enableLogging=True, diskUuidEnabled=False, snapshotDisabled=False),
        defaultPowerOps=vim.vm.DefaultPowerOpInfo(powerOffType="soft", defaultPowerOffType="soft"),
        hardware=_hardware_of(world, record, snapshot),
        extraConfig=_extra_config(world, record),
        datastoreUrl=[
            vim.vm.ConfigInfo.DatastoreUrlPair(name=store.name, url=f"/vmfs/volumes/{store.moref}")
        ],
        bootOptions=_boot_options(world, record),
        changeTrackingEnabled=record.change_tracking,
        firmware=spec.firmware,
    )


@SNAPSHOT_CONFIG.of("config")
def _snapshot_config(world: World, item: tuple[VmRecord, SnapshotRecord]) -> vim.vm.ConfigInfo:
    return config(world, *item)


@SNAPSHOT_CONFIG.of("config.hardware.device")
def _snapshot_devices(
    world: World, item: tuple[VmRecord, SnapshotRecord]
) -> list[vim.vm.device.VirtualDevice]:
    record, snapshot = item
    return devices(record, world.place(record), snapshot)
