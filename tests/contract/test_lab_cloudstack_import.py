"""Which disks the lab's CloudStack imports, and what a failed import leaves behind."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rigs.lab.cloudstack import IDS, CloudStackLab, create_image, running_cloudstack


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudStackLab]:
    with running_cloudstack(tmp_path_factory.mktemp("cloudstack-import")) as running:
        yield running


@pytest.fixture
def lab(server: CloudStackLab) -> Iterator[CloudStackLab]:
    yield server
    server.control.call("clear_faults")
    for vm in server.ok("listVirtualMachines", listall="true").get("virtualmachine", []):
        server.job("destroyVirtualMachine", id=vm["id"], expunge="true")
    for volume in server.ok("listVolumes", listall="true").get("volume", []):
        server.ok("deleteVolume", id=volume["id"])
    for path in server.pool.iterdir():
        path.unlink()


def _refusal(job: dict[str, Any]) -> tuple[int, str]:
    assert job["jobstatus"] == 2, job
    return job["jobresult"]["errorcode"], job["jobresult"]["errortext"]


def _vms(lab: CloudStackLab) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = lab.ok("listVirtualMachines", listall="true").get(
        "virtualmachine", []
    )
    return rows


def test_an_imported_vm_is_stopped_and_has_root_volume_and_nic(lab: CloudStackLab) -> None:
    create_image(lab.pool / "root.qcow2", "64M")
    job = lab.import_vm(displayname="Web 1 (old)", hostname="web-1", name="Web 1 (old)")
    vm = job["jobresult"]["virtualmachine"]
    assert (vm["state"], vm["name"], vm["displayname"]) == ("Stopped", "web-1", "Web 1 (old)")
    assert (vm["cpunumber"], vm["memory"]) == (2, 1024)
    nic = vm["nic"][0]
    assert nic["isdefault"]
    assert nic["ipaddress"].startswith("10.1.1.")
    (root,) = lab.ok("listVolumes", virtualmachineid=vm["id"])["volume"]
    assert (root["type"], root["deviceid"], root["path"]) == ("ROOT", 1, "root.qcow2")
    assert root["size"] == 64 << 20


def _backed(path: Path) -> None:
    base = create_image(path.with_name("base.qcow2"))
    create_image(path, "64M", "-b", str(base), "-F", "qcow2")


def _external_data(path: Path) -> None:
    create_image(path, "64M", "-o", f"data_file={path}.raw")


def _extended_l2(path: Path) -> None:
    create_image(path, "64M", "-o", "extended_l2=on")


def _raw(path: Path) -> None:
    path.write_bytes(bytes(1 << 20))


def _encrypted(path: Path) -> None:
    create_image(path)
    with path.open("r+b") as image:
        image.seek(32)  # crypt_method
        image.write((1).to_bytes(4, "big"))  # AES: LUKS needs a second of key derivation


@pytest.mark.parametrize(
    ("prepare", "vm_text", "volume_text"),
    [
        (lambda path: None, "Disk not found or is invalid", "Cannot find volume"),
        (_raw, "Disk not found or is invalid", "Cannot find volume"),
        (_backed, "Volume with backing file cannot be imported", "Volume with backing file"),
        (_external_data, "Disk not found or is invalid", "unsupported image"),
        (_extended_l2, "Disk not found or is invalid", "unsupported image"),
        (_encrypted, "Encrypted volume cannot be imported", "Encrypted volume"),
    ],
)
def test_an_unfit_image_is_refused_and_leaves_nothing(
    lab: CloudStackLab, prepare: Callable[[Path], None], vm_text: str, volume_text: str
) -> None:
    prepare(lab.pool / "root.qcow2")
    code, text = _refusal(lab.import_vm())
    assert code == 530
    assert vm_text in text
    assert _vms(lab) == []
    code, text = _refusal(lab.job("importVolume", storageid=IDS["storageid"], path="root.qcow2"))
    assert code == 530
    assert volume_text in text


def test_zstd_clusters_are_accepted(lab: CloudStackLab) -> None:
    create_image(lab.pool / "root.qcow2", "64M", "-o", "compression_type=zstd")
    assert lab.import_vm()["jobstatus"] == 1


def test_a_locked_image_is_refused(lab: CloudStackLab) -> None:
    path = create_image(lab.pool / "root.qcow2")
    with _writer(path):
        assert "Locked volume" in _refusal(lab.import_vm())[1]
    assert lab.import_vm()["jobstatus"] == 1


@contextlib.contextmanager
def _writer(path: Path) -> Iterator[None]:
    """A process that has the image open for writing."""
    socket = path.with_suffix(".sock")
    with subprocess.Popen(["qemu-nbd", "-t", "-f", "qcow2", "-k", str(socket), str(path)]) as nbd:
        try:
            while subprocess.run(
                ["nbdinfo", f"nbd+unix:///?socket={socket}"], capture_output=True, check=False
            ).returncode:
                assert nbd.poll() is None
            yield
        finally:
            nbd.terminate()
            nbd.wait(timeout=10)


def test_an_imported_path_is_in_use(lab: CloudStackLab) -> None:
    create_image(lab.pool / "root.qcow2")
    assert lab.import_vm()["jobstatus"] == 1
    assert _refusal(lab.import_vm()) == (431, "Disk image is already in use")


@pytest.mark.parametrize("kind", ["no_placement", "no_free_ip"])
def test_some_failures_leave_a_vm_behind(lab: CloudStackLab, kind: str) -> None:
    create_image(lab.pool / "root.qcow2")
    lab.control.call("fault", command="importVm", kind=kind)
    _refusal(lab.import_vm())
    assert [vm["name"] for vm in _vms(lab)] == ["web-1"]
    retried = lab.import_vm()
    if kind == "no_free_ip":
        assert _refusal(retried)[1] == "Disk image is already in use"
    else:
        assert retried["jobstatus"] == 1


def test_a_full_network_leaves_the_vm_behind_too(lab: CloudStackLab) -> None:
    create_image(lab.pool / "root.qcow2")
    network = {"table": "network", "id": IDS["networkid2"]}
    lab.control.call("set", **network, values={"last_ip": "172.16.7.9"})
    code, _ = _refusal(lab.import_vm(networkid=IDS["networkid2"]))
    lab.control.call("set", **network, values={"last_ip": "172.16.7.250"})
    assert code == 533
    assert len(_vms(lab)) == 1


@pytest.mark.parametrize(
    ("changed", "code", "text"),
    [
        ({"details[0].memory": ""}, 431, "Detail 'memory' must be provided."),
        ({"details[0].UEFI": "SECURE", "details[0].uefi": "x"}, 431, "must be written UEFI"),
        ({"details[0].rootDiskController": "nvme"}, 431, "has no value nvme"),
        ({"serviceofferingid": IDS["serviceofferingid_open"]}, 431, "'cpuSpeed' must be"),
        (
            {"serviceofferingid": IDS["serviceofferingid_constrained"], "details[0].memory": "512"},
            431,
            "between 1024 and 8192",
        ),
        ({"name": "1st server"}, 431, "Please provide hostname"),
        ({"hostname": "-x"}, 431, "Invalid VM hostname"),
        ({"diskpath": "sub/root.qcow2"}, 530, "Disk not found or is invalid"),
        ({"storageid": IDS["storageid_rbd"]}, 530, "Disk not found or is invalid"),
        ({"hypervisor": "VMware"}, 431, "not supported for hypervisor"),
        ({"importsource": "local"}, 431, "Host is required"),
        ({"domainid": IDS["domainid2"]}, 431, "must be specified with account"),
        ({"networkid": ""}, 431, "Network is required"),
    ],
)
def test_import_refusals(lab: CloudStackLab, changed: dict[str, str], code: int, text: str) -> None:
    create_image(lab.pool / "root.qcow2")
    refused, message = _refusal(lab.import_vm(**changed))
    assert refused == code
    assert text in message


def test_details_beyond_the_first_map_index_are_lost(lab: CloudStackLab) -> None:
    create_image(lab.pool / "root.qcow2")
    job = lab.import_vm(**{"details[0].memory": "", "details[1].memory": "1024"})
    assert "'memory' must be provided" in _refusal(job)[1]


def test_an_older_server_has_no_mount_point_pools(lab: CloudStackLab) -> None:
    create_image(lab.pool / "root.qcow2")
    lab.control.call("set", table="setting", id="version", values={"value": "4.20.3.0"})
    try:
        assert _refusal(lab.import_vm())[1] == "Disk not found or is invalid"
    finally:
        lab.control.call("set", table="setting", id="version", values={"value": "4.22.1.0"})


def test_data_volumes_skip_the_cdrom_device(lab: CloudStackLab) -> None:
    create_image(lab.pool / "root.qcow2")
    vm = lab.import_vm()["jobresult"]["virtualmachine"]
    devices = []
    for number in range(3):
        name = f"data{number}.qcow2"
        create_image(lab.pool / name)
        volume = lab.job("importVolume", storageid=IDS["storageid"], path=name, name=name)
        attached = lab.job(
            "attachVolume", id=volume["jobresult"]["volume"]["id"], virtualmachineid=vm["id"]
        )
        devices.append(attached["jobresult"]["volume"]["deviceid"])
    assert devices == [2, 4, 5]
    again = lab.job(
        "attachVolume", id=attached["jobresult"]["volume"]["id"], virtualmachineid=vm["id"]
    )
    assert "not attached to any VM" in _refusal(again)[1]


@pytest.mark.parametrize(
    ("offering", "text"),
    [
        ("diskofferingid_local", "should use shared storage"),
        ("diskofferingid_tagged", "storage tags are not compatible"),
    ],
)
def test_unfit_disk_offerings_are_refused(lab: CloudStackLab, offering: str, text: str) -> None:
    create_image(lab.pool / "data.qcow2")
    job = lab.job(
        "importVolume",
        storageid=IDS["storageid"],
        path="data.qcow2",
        diskofferingid=IDS[offering],
    )
    assert text in _refusal(job)[1]


def test_custom_disk_offerings_have_a_minimum_in_floored_gib(lab: CloudStackLab) -> None:
    create_image(lab.pool / "data.qcow2", "1023M")
    setting = {"table": "setting", "id": "custom.diskoffering.size.min"}
    lab.control.call("set", **setting, values={"value": "1"})
    job = lab.job("importVolume", storageid=IDS["storageid"], path="data.qcow2")
    lab.control.call("set", **setting, values={"value": "0"})
    assert _refusal(job) == (431, "Volume size: 0 GB is out of allowed range. Min: 1. Max: 1024")


def test_nics_one_per_network_and_a_default_that_can_move(lab: CloudStackLab) -> None:
    create_image(lab.pool / "root.qcow2")
    vm = lab.import_vm()["jobresult"]["virtualmachine"]
    target = {"virtualmachineid": vm["id"]}
    code, text = _refusal(lab.job("addNicToVirtualMachine", networkid=IDS["networkid"], **target))
    assert (code, text.split(":")[0]) == (530, "A NIC already exists for VM")
    mac = "00:50:56:aa:bb:cc"
    added = lab.job(
        "addNicToVirtualMachine", networkid=IDS["networkid2"], macaddress=mac, **target
    )["jobresult"]["virtualmachine"]["nic"]
    assert [nic["macaddress"] == mac for nic in added] == [False, True]
    first, second = (nic["id"] for nic in added)
    assert (
        "NIC is default"
        in _refusal(lab.job("removeNicFromVirtualMachine", nicid=first, **target))[1]
    )
    lab.job("updateDefaultNicForVirtualMachine", nicid=second, **target)
    lab.job("removeNicFromVirtualMachine", nicid=first, **target)
    nics = lab.ok("listNics", **target)["nic"]
    assert [(nic["macaddress"], nic["isdefault"]) for nic in nics] == [(mac, True)]


def test_details_are_replaced_not_merged(lab: CloudStackLab) -> None:
    create_image(lab.pool / "root.qcow2")
    vm = lab.import_vm()["jobresult"]["virtualmachine"]
    updated = lab.ok(
        "updateVirtualMachine",
        id=vm["id"],
        ostypeid=IDS["ostypeid_debian"],
        **{"details[0].nicAdapter": "virtio"},
    )["virtualmachine"]
    assert updated["details"] == {"nicAdapter": "virtio"}
    assert updated["ostypeid"] == IDS["ostypeid_debian"]
    assert (
        "'cpuNumber' must be provided" in _refusal(lab.job("startVirtualMachine", id=vm["id"]))[1]
    )


def test_start_refuses_an_image_that_a_host_could_not_open(lab: CloudStackLab) -> None:
    path = create_image(lab.pool / "root.qcow2")
    vm = lab.import_vm()["jobresult"]["virtualmachine"]
    with _writer(path):
        assert "lock" in _refusal(lab.job("startVirtualMachine", id=vm["id"]))[1]
    started = lab.job("startVirtualMachine", id=vm["id"])["jobresult"]["virtualmachine"]
    assert (started["state"], started["hostname"]) == ("Running", "lab-kvm-1")
    lab.job("stopVirtualMachine", id=vm["id"])
    with path.open("r+b") as image:
        image.seek(79)  # the lowest byte of the incompatible feature bits
        image.write(b"\x02")  # corrupt
    assert "corrupt" in _refusal(lab.job("startVirtualMachine", id=vm["id"]))[1]


def test_unmanaging_keeps_files_and_destroying_does_not(lab: CloudStackLab) -> None:
    path = create_image(lab.pool / "root.qcow2")
    vm = lab.import_vm()["jobresult"]["virtualmachine"]
    assert lab.job("unmanageVirtualMachine", id=vm["id"])["jobresult"]["success"] is True
    assert path.exists()
    assert (_vms(lab), lab.ok("listVolumes", listall="true")) == ([], {})
    vm = lab.import_vm()["jobresult"]["virtualmachine"]
    lab.job("destroyVirtualMachine", id=vm["id"], expunge="true")
    assert not path.exists()


def test_unmanaging_a_vm_that_never_ran_on_a_zone_wide_pool_needs_a_host(
    lab: CloudStackLab,
) -> None:
    image = create_image(lab.directory / "pool-nfs" / "root.qcow2")
    vm = lab.import_vm(storageid=IDS["storageid_nfs"])["jobresult"]["virtualmachine"]
    assert "No available host" in _refusal(lab.job("unmanageVirtualMachine", id=vm["id"]))[1]
    job = lab.job("unmanageVirtualMachine", id=vm["id"], hostid=IDS["hostid"])
    assert job["jobstatus"] == 1
    assert image.exists()


def test_a_full_pool_is_no_placement(lab: CloudStackLab) -> None:
    create_image(lab.pool / "root.qcow2")
    values = {"configured_capacity_bytes": 100, "configured_used_bytes": 86}
    pool = {"table": "storagepool", "id": IDS["storageid2"]}
    lab.control.call("set", **pool, values=values)
    create_image(lab.directory / "pool2" / "root.qcow2")
    assert "destination not found" in _refusal(lab.import_vm(storageid=IDS["storageid2"]))[1]
    lab.control.call("set", **pool, values={"configured_used_bytes": 10})
    assert lab.import_vm(storageid=IDS["storageid2"])["jobstatus"] == 1


def test_volumes_for_import_are_the_unused_images(lab: CloudStackLab) -> None:
    create_image(lab.pool / "used.qcow2")
    create_image(lab.pool / "free.qcow2", "32M")
    lab.job("importVolume", storageid=IDS["storageid"], path="used.qcow2")
    rows = lab.ok("listVolumesForImport", storageid=IDS["storageid"])["volumeforimport"]
    assert [(row["path"], row["virtualsize"]) for row in rows] == [("free.qcow2", 32 << 20)]
    assert json.dumps(rows[0]["details"]) == '{"isLocked": "false"}'
