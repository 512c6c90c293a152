"""vCenter's own types in, values out: built with pyVmomi's classes as a server would fill them."""

from typing import Any

import pytest
from pyVmomi import vim, vmodl

from services.kit.failure import Code, ServiceError
from services.vmware_agent.errors import (
    DatastoreFull,
    QuiesceFailed,
    SnapshotLimit,
    SnapshotNotFound,
    ToolsNotRunning,
    VCenterBusy,
    VCenterFault,
    VCenterPermissionDenied,
    VmNotFound,
    WrongPowerState,
)
from services.vmware_agent.vcenter.devices import (
    has_encrypted_disk,
    has_vtpm,
    read_disks,
    read_extra_config,
    read_nics,
    read_passthrough,
)
from services.vmware_agent.vcenter.faults import translate
from services.vmware_agent.vm import DiskObstacle, unescape_name

device = vim.vm.device
VirtualDisk = device.VirtualDisk
GIB = 1024**3


def controller(kind: Any, key: int = 1000, bus: int = 0, **more: Any) -> Any:
    return kind(key=key, busNumber=bus, **more)


def scsi(key: int = 1000, bus: int = 0, shared: str = "noSharing") -> Any:
    return controller(device.ParaVirtualSCSIController, key, bus, sharedBus=shared)


def disk(key: int, controller_key: int = 1000, number: int = 0, backing: Any = None) -> Any:
    return VirtualDisk(
        key=key,
        controllerKey=controller_key,
        unitNumber=number,
        capacityInKB=GIB // 1024,
        capacityInBytes=GIB,
        deviceInfo=vim.Description(label=f"Hard disk {key - 1999}", summary=""),
        backing=backing
        or VirtualDisk.FlatVer2BackingInfo(
            fileName=f"[ds 1] vm/vm_{key}.vmdk", diskMode="persistent", thinProvisioned=True
        ),
    )


def option(key: str, value: str) -> Any:
    return vim.option.OptionValue(key=key, value=value)


def units(*devices: Any) -> dict[int, int]:
    return {one.key: one.unit for one in read_disks(devices, {})}


def test_a_disk_as_vcenter_describes_it() -> None:
    (one,) = read_disks([scsi(), disk(2000, number=3)], {})
    assert (one.key, one.unit, one.label, one.address) == (2000, 3, "Hard disk 1", "scsi0:3")
    assert (one.path, one.capacity_bytes) == ("[ds 1] vm/vm_2000.vmdk", GIB)
    assert (one.controller.model, one.backing, one.thin) == ("pvscsi", "FlatVer2", True)
    assert one.snapshottable


def test_with_one_controller_the_unit_is_the_unit_number() -> None:
    sata = controller(device.VirtualAHCIController, 15000)
    assert units(sata, disk(16000, 15000, 0), disk(16001, 15000, 5)) == {16000: 0, 16001: 5}


def test_with_several_controllers_no_two_disks_share_a_unit() -> None:
    found = units(
        scsi(1000, 0),
        scsi(1001, 1),
        controller(device.VirtualAHCIController, 15000),
        controller(device.VirtualNVMEController, 31000),
        controller(device.VirtualIDEController, 200, 0),
        controller(device.VirtualIDEController, 201, 1),
        disk(2000, 1000, 0),
        disk(2001, 1001, 0),
        disk(2002, 1000, 16),
        disk(2003, 1001, 63),
        disk(2004, 15000, 0),
        disk(2005, 31000, 0),
        disk(2006, 200, 1),
        disk(2007, 201, 0),
    )
    assert found == {
        2000: 0,
        2001: 16,
        2002: 4016,
        2003: 4127,
        2004: 1000,
        2005: 2000,
        2006: 3001,
        2007: 3002,
    }


def test_tracking_keys_are_read_without_regard_to_case() -> None:
    extra = read_extra_config(
        [
            option("SCSI0:0.CTKENABLED", "True"),
            option("scsi0:1.ctkEnabled", "FALSE"),
            option("ctkEnabled", "TRUE"),
        ]
    )
    disks = [disk(2000, number=0), disk(2001, number=1), disk(2002, number=2)]
    assert [one.tracking_enabled for one in read_disks([scsi(), *disks], extra)] == [
        True,
        False,
        None,
    ]


@pytest.mark.parametrize(
    ("backing", "obstacle"),
    [
        (
            VirtualDisk.FlatVer2BackingInfo(fileName="f", diskMode="independent_persistent"),
            DiskObstacle.INDEPENDENT,
        ),
        (
            VirtualDisk.FlatVer2BackingInfo(fileName="f", diskMode="independent_nonpersistent"),
            DiskObstacle.INDEPENDENT,
        ),
        (
            VirtualDisk.RawDiskMappingVer1BackingInfo(
                fileName="f", diskMode="persistent", compatibilityMode="physicalMode"
            ),
            DiskObstacle.PHYSICAL_RDM,
        ),
        (
            VirtualDisk.FlatVer2BackingInfo(
                fileName="f", diskMode="persistent", sharing="sharingMultiWriter"
            ),
            DiskObstacle.MULTI_WRITER,
        ),
        (
            VirtualDisk.RawDiskVer2BackingInfo(descriptorFileName="f", deviceName="/dev/sdb"),
            DiskObstacle.RAW_DISK,
        ),
        (
            VirtualDisk.FlatVer1BackingInfo(fileName="f", diskMode="persistent"),
            DiskObstacle.UNKNOWN_BACKING,
        ),
    ],
)
def test_disks_that_snapshots_leave_out(backing: Any, obstacle: DiskObstacle) -> None:
    (one,) = read_disks([scsi(), disk(2000, backing=backing)], {})
    assert one.obstacles == (obstacle,)


def test_disks_that_snapshots_cover() -> None:
    backings = [
        VirtualDisk.SeSparseBackingInfo(fileName="f", diskMode="persistent"),
        VirtualDisk.SparseVer2BackingInfo(fileName="f", diskMode="persistent"),
        VirtualDisk.RawDiskMappingVer1BackingInfo(
            fileName="f", diskMode="persistent", compatibilityMode="virtualMode"
        ),
    ]
    disks = [disk(2000 + i, number=i, backing=one) for i, one in enumerate(backings)]
    assert all(one.snapshottable for one in read_disks([scsi(), *disks], {}))


@pytest.mark.parametrize("shared", ["virtualSharing", "physicalSharing"])
def test_every_disk_of_a_shared_bus_is_left_out(shared: str) -> None:
    disks = [disk(2000, 1000), disk(2001, 1001)]
    plain, clustered = read_disks([scsi(), scsi(1001, 1, shared), *disks], {})
    assert plain.snapshottable
    assert clustered.obstacles == (DiskObstacle.SHARED_BUS,)


def test_nics_keep_the_order_of_their_keys_and_name_their_networks() -> None:
    card = device.VirtualEthernetCard
    port = vim.dvs.PortConnection(switchUuid="s", portgroupKey="dvportgroup-7")
    nics = read_nics(
        [
            device.VirtualE1000(
                key=4001,
                macAddress="00:50:56:AA:BB:01",
                backing=card.DistributedVirtualPortBackingInfo(port=port),
                connectable=device.VirtualDevice.ConnectInfo(
                    startConnected=False, allowGuestControl=True, connected=False
                ),
            ),
            device.VirtualVmxnet3(
                key=4000,
                macAddress="00:50:56:aa:bb:00",
                deviceInfo=vim.Description(label="Network adapter 1", summary=""),
                backing=card.NetworkBackingInfo(deviceName="VM Network"),
            ),
        ],
        {"dvportgroup-7": "Büro-Netz"},
    )
    assert [(nic.key, nic.index, nic.network) for nic in nics] == [
        (4000, 0, "VM Network"),
        (4001, 1, "Büro-Netz"),
    ]
    assert [(nic.mac, nic.adapter, nic.connected) for nic in nics] == [
        ("00:50:56:aa:bb:00", "vmxnet3", True),
        ("00:50:56:aa:bb:01", "e1000", False),
    ]


def test_encrypted_disks_are_noticed() -> None:
    key = vim.encryption.CryptoKeyId(keyId="k")
    backing = VirtualDisk.FlatVer2BackingInfo(fileName="f", diskMode="persistent", keyId=key)
    assert has_encrypted_disk([scsi(), disk(2000, backing=backing)])
    assert not has_encrypted_disk([scsi(), disk(2000)])


def test_tpm_and_passthrough_devices_are_noticed() -> None:
    label = vim.Description(label="PCI device 0", summary="")
    devices = [device.VirtualTPM(key=11000), device.VirtualPCIPassthrough(key=1, deviceInfo=label)]
    assert has_vtpm(devices)
    assert read_passthrough(devices) == ("PCI device 0",)
    assert not has_vtpm([scsi()])


@pytest.mark.parametrize(
    ("stored", "name"),
    [("a%2fb", "a/b"), ("50%25 %5c", "50% \\"), ("x%252fy", "x%2fy"), ("plain", "plain")],
)
def test_names_are_shown_as_people_write_them(stored: str, name: str) -> None:
    assert unescape_name(stored) == name


def test_every_fault_has_an_error_that_says_what_was_done() -> None:
    gone, no_snapshot = vim.VirtualMachine("vm-9"), vim.vm.Snapshot("snapshot-9")
    fault = vim.fault
    expected: dict[Any, type[ServiceError]] = {
        vmodl.fault.ManagedObjectNotFound(obj=gone): VmNotFound,
        vmodl.fault.ManagedObjectNotFound(obj=no_snapshot): SnapshotNotFound,
        fault.NoPermission(privilegeId="VirtualMachine.State.CreateSnapshot"): (
            VCenterPermissionDenied
        ),
        fault.TaskInProgress(): VCenterBusy,
        fault.ApplicationQuiesceFault(): QuiesceFailed,
        fault.FilesystemQuiesceFault(): QuiesceFailed,
        fault.GenericVmConfigFault(msg="An error occurred while quiescing the VM"): QuiesceFailed,
        fault.GenericVmConfigFault(msg="Invalid configuration"): VCenterFault,
        fault.TooManySnapshotLevels(): SnapshotLimit,
        fault.NoDiskSpace(datastore="ds1"): DatastoreFull,
        fault.ToolsUnavailable(): ToolsNotRunning,
        fault.InvalidPowerState(): WrongPowerState,
        vmodl.fault.SystemError(reason="bug"): VCenterFault,
    }
    for one, kind in expected.items():
        error = translate(one, "snapshotting vm-9")
        assert type(error) is kind
        assert error.message.startswith("snapshotting vm-9: ")
        assert error.hint
        assert error.code is not Code.UNKNOWN


def test_a_missing_privilege_is_named() -> None:
    fault = vim.fault.NoPermission(privilegeId="VirtualMachine.State.CreateSnapshot")
    error = translate(fault, "snapshotting")
    assert "VirtualMachine.State.CreateSnapshot" in error.message
    assert error.metadata["privilege"] == "VirtualMachine.State.CreateSnapshot"


@pytest.mark.parametrize(
    ("fault", "retryable"),
    [
        (vmodl.fault.HostNotConnected(), True),
        (vmodl.fault.RequestCanceled(), True),
        (vim.fault.FileLocked(file="f"), True),
        (vim.fault.ConcurrentAccess(), True),
        (vim.fault.CannotAccessFile(file="f"), True),
        (vim.fault.InvalidState(), False),
        (vmodl.fault.NotSupported(), False),
    ],
)
def test_faults_that_pass_by_themselves_are_retryable(fault: Any, retryable: bool) -> None:
    assert translate(fault, "consolidating").retryable is retryable
