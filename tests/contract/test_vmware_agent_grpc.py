"""The service over gRPC on a unix socket, in front of the lab's vCenter; and its process."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from lab.scenario import DEFAULT_USERS
from lab.scenarios import built_in
from services.kit.channel import connect, remote_errors
from services.kit.errors import RemoteError
from services.kit.failure import Code
from services.kit.processes.service import read_ready_file
from services.kit.server import serving
from services.vmware_agent.ports import SystemClock
from services.vmware_agent.server import registration
from services.vmware_agent.servicer import VmwareServicer
from tests.rigs.agents.vmware import LabVCenter, connected, running_vcenter, without_content
from v2c.vmware.v1 import vmware_pb2 as pb
from v2c.vmware.v1.vmware_pb2_grpc import VmwareServiceStub

if TYPE_CHECKING:  # The type exists in the stubs' stubs only.
    from v2c.vmware.v1.vmware_pb2_grpc import VmwareServiceAsyncStub


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[LabVCenter]:
    with running_vcenter(tmp_path / "lab", without_content(built_in("small"))) as running:
        yield running


@pytest.fixture
async def stub(lab: LabVCenter, tmp_path: Path) -> "AsyncIterator[VmwareServiceAsyncStub]":
    async with connected(lab.endpoint()) as vcenter:
        register = registration(VmwareServicer(vcenter, SystemClock(), "vc.lab.test"))
        listen = f"unix:{tmp_path}/agent.sock"
        async with (
            serving("vmware agent", listen, None, register),
            connect(listen, None, default_timeout_seconds=20, name="vmware") as channel,
        ):
            yield VmwareServiceStub(channel)


async def moref_of(stub: "VmwareServiceAsyncStub", name: str) -> str:
    return (await stub.GetVm(pb.GetVmRequest(name=name))).vm.moref


async def test_which_vcenter_this_is(lab: LabVCenter, stub: "VmwareServiceAsyncStub") -> None:
    endpoint = await stub.GetEndpoint(pb.GetEndpointRequest())
    assert endpoint.host == "vc.lab.test"
    assert endpoint.thumbprint_sha1 == lab.certificate.thumbprint_sha1
    assert "8.0.3" in endpoint.product


async def test_listing_by_pages(lab: LabVCenter, stub: "VmwareServiceAsyncStub") -> None:
    paths: list[str] = []
    request = pb.ListVmsRequest(page_size=6)
    while True:
        page = await stub.ListVms(request)
        paths += [vm.path for vm in page.vms]
        assert page.total_count == len(lab.world.vms)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert len(paths) == len(lab.world.vms)
    assert paths == sorted(paths)
    assert [vm.name for vm in (await stub.ListVms(pb.ListVmsRequest(filter="UEFI"))).vms] == [
        "windows uefi"
    ]


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (pb.GetVmRequest(name="linux-boss"), Code.NOT_FOUND, "VM_NOT_FOUND"),
        (pb.GetVmRequest(moref="vm-777"), Code.NOT_FOUND, "VM_NOT_FOUND"),
        (pb.GetVmRequest(name="twin"), Code.FAILED_PRECONDITION, "AMBIGUOUS_VM_NAME"),
        (pb.GetVmRequest(), Code.INVALID_ARGUMENT, "INVALID_QUERY"),
    ],
)
async def test_errors_have_a_hint(
    stub: "VmwareServiceAsyncStub", request_: pb.GetVmRequest, code: Code, reason: str
) -> None:
    with pytest.raises(RemoteError) as caught, remote_errors("vmware"):
        await stub.GetVm(request_)
    assert (caught.value.code, caught.value.reason) == (code, reason)
    if reason == "VM_NOT_FOUND" and request_.name:
        assert caught.value.metadata["nearest"] == "linux-bios"


async def test_bad_page_tokens_are_refused(stub: "VmwareServiceAsyncStub") -> None:
    with pytest.raises(RemoteError, match="page_token"), remote_errors("vmware"):
        await stub.ListVms(pb.ListVmsRequest(page_token="no token"))


async def test_a_pass_from_tracking_to_clean_up(
    lab: LabVCenter, stub: "VmwareServiceAsyncStub"
) -> None:
    vm = (await stub.GetVm(pb.GetVmRequest(name="windows uefi"))).vm
    assert vm.firmware == pb.FIRMWARE_UEFI
    assert [disk.change_tracking_enabled for disk in vm.disks] == [False, False]
    tracking = pb.EnableChangeTrackingRequest(moref=vm.moref)
    assert (await stub.EnableChangeTracking(tracking)).changed
    assert not (await stub.EnableChangeTracking(tracking)).changed

    create = pb.CreateSnapshotRequest(vm_moref=vm.moref, name="v2c-m1-p1")
    created = await stub.CreateSnapshot(create)
    assert not created.existed
    assert created.snapshot.create_time.ToSeconds() > 1_700_000_000
    assert (await stub.CreateSnapshot(create)).existed
    first = {disk.key: disk.change_id for disk in created.snapshot.disks}
    assert all(first.values())

    listed = await stub.ListSnapshots(
        pb.ListSnapshotsRequest(vm_moref=vm.moref, name_prefix="v2c-")
    )
    assert [one.moref for one in listed.snapshots] == [created.snapshot.moref]
    assert listed.snapshots[0].disks == created.snapshot.disks
    remove = pb.RemoveSnapshotRequest(vm_moref=vm.moref, name="v2c-m1-p1")
    assert (await stub.RemoveSnapshot(remove)).removed
    assert not (await stub.RemoveSnapshot(remove)).removed

    second = (
        await stub.CreateSnapshot(pb.CreateSnapshotRequest(vm_moref=vm.moref, name="v2c-m1-p2"))
    ).snapshot
    for disk in second.disks:
        last = None
        changed = 0
        async for last in stub.StreamChangedAreas(
            pb.StreamChangedAreasRequest(
                vm_moref=vm.moref,
                snapshot_moref=second.moref,
                disk_key=disk.key,
                change_id=first[disk.key],
            )
        ):
            changed += sum(area.length_bytes for area in last.areas)
        assert last is not None
        assert last.covered_bytes == last.capacity_bytes == disk.capacity_bytes
        assert changed == 65536


async def test_a_reset_reaches_the_caller_by_its_reason(
    lab: LabVCenter, stub: "VmwareServiceAsyncStub"
) -> None:
    moref = await moref_of(stub, "linux-bios")
    await stub.EnableChangeTracking(pb.EnableChangeTrackingRequest(moref=moref))
    snapshot = (
        await stub.CreateSnapshot(pb.CreateSnapshotRequest(vm_moref=moref, name="v2c-1"))
    ).snapshot
    request = pb.StreamChangedAreasRequest(
        vm_moref=moref,
        snapshot_moref=snapshot.moref,
        disk_key=snapshot.disks[0].key,
        change_id="00/1",
    )
    with pytest.raises(RemoteError) as caught, remote_errors("vmware"):
        async for _ in stub.StreamChangedAreas(request):
            pass
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert caught.value.reason == "CBT_RESET"
    assert caught.value.metadata == {"disk": "2000", "cause": "uuid_changed"}
    assert not caught.value.retryable


async def test_power(lab: LabVCenter, stub: "VmwareServiceAsyncStub") -> None:
    moref = await moref_of(stub, "tools-stopped")
    power = await stub.GetPower(pb.GetPowerRequest(moref=moref))
    assert (power.power_state, power.tools_running) == (pb.POWER_STATE_ON, False)
    with pytest.raises(RemoteError) as caught, remote_errors("vmware"):
        await stub.ShutdownGuest(pb.ShutdownGuestRequest(moref=moref))
    assert caught.value.reason == "TOOLS_NOT_RUNNING"
    await stub.PowerOff(pb.PowerOffRequest(moref=moref))
    power = await stub.GetPower(pb.GetPowerRequest(moref=moref))
    assert power.power_state == pb.POWER_STATE_OFF
    await stub.PowerOn(pb.PowerOnRequest(moref=moref))
    power = await stub.GetPower(pb.GetPowerRequest(moref=moref))
    assert power.power_state == pb.POWER_STATE_ON


async def test_findings_come_with_severity_and_hint(stub: "VmwareServiceAsyncStub") -> None:
    moref = await moref_of(stub, "independent-disk")
    checked = await stub.CheckVm(pb.CheckVmRequest(moref=moref))
    assert [(one.name, one.severity) for one in checked.findings] == [
        ("DISK_INDEPENDENT", pb.SEVERITY_ERROR)
    ]
    assert checked.findings[0].hint


async def test_health_answers_while_vcenter_is_slow(
    lab: LabVCenter, stub: "VmwareServiceAsyncStub"
) -> None:
    moref = await moref_of(stub, "linux-bios")
    lab.injector.add("RetrievePropertiesEx", delay_seconds=0.6)
    slow = asyncio.ensure_future(stub.GetVm(pb.GetVmRequest(moref=moref)))
    await asyncio.sleep(0.1)
    power = await asyncio.wait_for(stub.GetPower(pb.GetPowerRequest(moref=moref)), 0.45)
    assert power.power_state == pb.POWER_STATE_ON
    assert not slow.done()
    await slow


# -- the process


def write_config(path: Path, lab: LabVCenter, **vcenter: object) -> Path:
    user = DEFAULT_USERS[0]
    config = {
        "vcenter": {
            "host": "127.0.0.1",
            "port": lab.port,
            "user": user.name,
            "password": user.password,
            "thumbprint": lab.certificate.thumbprint_sha1,
            **vcenter,
        },
        "migration": {"vddk_path": str(path.parent), "control_dir": str(path.parent)},
        "cloudstack": {"endpoint": "127.0.0.1:1", "api_key": "k", "secret_key": "s"},
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


async def start(arguments: Sequence[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.vmware_agent",
        *arguments,
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


async def agent_address(process: asyncio.subprocess.Process, ready_file: Path) -> str:
    async with asyncio.timeout(20):
        while (ready := read_ready_file(ready_file)) is None:
            assert process.returncode is None
            await asyncio.sleep(0.05)
    return ready.address


@pytest.mark.parametrize("password", ["right", "wrong pa$$"])
async def test_the_process_serves_and_stops(lab: LabVCenter, tmp_path: Path, password: str) -> None:
    given = {} if password == "right" else {"password": password}
    config = write_config(tmp_path / "config.yaml", lab, **given)
    ready = tmp_path / "ready.json"
    process = await start(
        ["--config", str(config), "--listen", f"unix:{tmp_path}/a.sock", "--ready-file", str(ready)]
    )
    try:
        address = await agent_address(process, ready)
        async with connect(address, None, default_timeout_seconds=20, name="vmware") as channel:
            stub: VmwareServiceAsyncStub = VmwareServiceStub(channel)
            if password == "right":
                endpoint = await stub.GetEndpoint(pb.GetEndpointRequest())
                assert endpoint.thumbprint_sha1 == lab.certificate.thumbprint_sha1
            else:
                named = pytest.raises(RemoteError, match=r"vcenter\.user")
                with named as caught, remote_errors("vmware"):
                    await stub.GetEndpoint(pb.GetEndpointRequest())
                assert caught.value.reason == "VCENTER_LOGIN_FAILED"
                assert "vcenter.password" in caught.value.hint
        process.send_signal(signal.SIGTERM)
        stdout, stderr = await asyncio.wait_for(process.communicate(), 20)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    assert password not in (stdout + stderr).decode() or password == "right"
    assert DEFAULT_USERS[0].password not in (stdout + stderr).decode()
    assert lab.sessions.all() == [], "it logged out"


async def test_a_config_that_cannot_be_used_ends_the_process(
    lab: LabVCenter, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "config.yaml", lab, password="env:V2C_TEST_UNSET")
    process = await start(["--config", str(config), "--listen", f"unix:{tmp_path}/a.sock"])
    _, stderr = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 78
    assert b"V2C_TEST_UNSET" in stderr
    assert b"Traceback" not in stderr
