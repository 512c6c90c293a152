"""The domain on the lab's vCenter over HTTPS: inventory, tracking, snapshots, power."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab.scenarios import built_in
from services.vmware_agent.cbt import enable_tracking
from services.vmware_agent.errors import (
    AmbiguousVmName,
    CbtUnsupported,
    ConsolidationNeeded,
    QuiesceFailed,
    SnapshotNotFound,
    ToolsNotRunning,
    VCenterBusy,
    VCenterFault,
    VCenterTimeout,
    VmNotFound,
)
from services.vmware_agent.ports import SystemClock
from services.vmware_agent.power import power_off, power_on, shutdown_guest
from services.vmware_agent.preflight import check_vm
from services.vmware_agent.snapshots import (
    Quiesce,
    create_snapshot,
    list_snapshots,
    remove_snapshot,
)
from services.vmware_agent.vcenter.adapter import VmomiVCenter
from services.vmware_agent.vcenter.property_collector import Found, read_objects
from services.vmware_agent.vcenter.session import Connection
from services.vmware_agent.vm import DiskObstacle, Firmware, PowerState
from services.vmware_agent.vm_search import find_vm, list_vms
from tests.rigs.agents.vmware import (
    LabVCenter,
    QuickClock,
    connected,
    running_vcenter,
    without_content,
)

CLOCK = QuickClock()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[LabVCenter]:
    with running_vcenter(tmp_path, without_content(built_in("small"))) as running:
        yield running


@pytest.fixture
async def vcenter(lab: LabVCenter) -> AsyncIterator[VmomiVCenter]:
    async with connected(lab.endpoint(), CLOCK) as connection:
        yield connection


# -- inventory


async def test_every_vm_of_every_datacenter_and_folder_is_listed(
    lab: LabVCenter, vcenter: VmomiVCenter
) -> None:
    lab.world.settings.max_page_objects = 2
    seen: list[str] = []
    after = ""
    while True:
        page = await list_vms(vcenter, page_size=4, after=after)
        seen += [one.moref for one in page.vms]
        if page.next_after is None:
            break
        after = page.next_after
    assert len(seen) == page.total_count
    assert set(seen) == set(lab.world.vms)


async def test_hundreds_of_vms_are_read_with_a_few_calls(tmp_path: Path) -> None:
    scenario = built_in("fleet")
    (datacenter,) = scenario.datacenters
    scenario = replace(scenario, datacenters=(replace(datacenter, vms=datacenter.vms[:300]),))
    with running_vcenter(tmp_path, scenario) as lab:
        async with connected(lab.endpoint()) as vcenter:
            page = await list_vms(vcenter)
            (session,) = lab.sessions.all()
            # A view, four pages of names (the simulator's have 100 objects), three of VMs.
            assert session.calls < 12
    assert len(page.vms) == 300
    assert all(one.disks and one.nics and one.host for one in page.vms)


@pytest.mark.parametrize(
    ("wanted", "path"),
    [
        ("linux-bios", "/Europe/East DC/vm/Linux/linux-bios"),
        ("windows uefi", "/Europe/East DC/vm/Windows/Tier 1/windows uefi"),
        ("größe-ünïcode-数据库", "/West/vm/Büro/größe-ünïcode-数据库"),
        ("slash/in/name", "/West/vm/R%2fD/slash%2fin%2fname"),
        ("slash%2fin%2fname", "/West/vm/R%2fD/slash%2fin%2fname"),
        ("/West/vm/twin", "/West/vm/twin"),
    ],
)
async def test_awkward_names_are_found(vcenter: VmomiVCenter, wanted: str, path: str) -> None:
    assert (await find_vm(vcenter, name=wanted)).path == path


async def test_vms_of_one_name_are_ambiguous(lab: LabVCenter, vcenter: VmomiVCenter) -> None:
    with pytest.raises(AmbiguousVmName, match="2 VMs are named 'twin'") as caught:
        await find_vm(vcenter, name="twin")
    for moref in caught.value.metadata["candidates"].split(","):
        vm = await find_vm(vcenter, moref=moref, name="twin")
        assert (await find_vm(vcenter, instance_uuid=vm.instance_uuid)).moref == moref
        assert vm.path in caught.value.message


async def test_a_deleted_vm_is_left_out_of_a_batch_and_not_found_alone(
    lab: LabVCenter, vcenter: VmomiVCenter
) -> None:
    morefs = [one.moref for one in await vcenter.list_entries()]
    gone = lab.vm("linux-bios")
    with lab.world.changed:
        lab.world.delete_vm(gone)
    assert {one.moref for one in await vcenter.get_vms(morefs)} == set(morefs) - {gone.moref}
    with pytest.raises(VmNotFound):
        await vcenter.get_vm(gone.moref)


async def test_a_vm_without_a_readable_configuration_is_not_reported_as_unknown(
    lab: LabVCenter, vcenter: VmomiVCenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = lab.vm("linux-bios").moref

    def read(connection: Connection, objects: Sequence[Any], paths: Sequence[str]) -> list[Found]:
        return [
            replace(one, properties={}) if one.moref == orphan else one
            for one in read_objects(connection, objects, paths)
        ]

    monkeypatch.setattr("services.vmware_agent.vcenter.adapter.read_objects", read)
    with pytest.raises(VCenterFault, match="neither its hardware"):
        await vcenter.get_vm(orphan)
    page = await list_vms(vcenter)
    assert len(page.vms) == len(lab.world.vms) - 1


async def test_every_property_of_a_vm_is_read(vcenter: VmomiVCenter) -> None:
    windows = await find_vm(vcenter, name="windows uefi")
    assert windows.firmware is Firmware.EFI
    assert windows.secure_boot
    assert windows.power is PowerState.ON
    assert windows.tools_running
    assert windows.hardware_version == 19
    assert windows.host.startswith("esxi-")
    assert [nic.network for nic in windows.nics] == ["VM Network", "Backend VLAN 20"]
    assert [nic.adapter for nic in windows.nics] == ["vmxnet3", "e1000e"]
    assert [one.unit for one in windows.disks] == [0, 1000]

    many = await find_vm(vcenter, name="many-controllers")
    assert [(one.unit, one.controller.model) for one in many.disks] == [
        (0, "pvscsi"),
        (16, "lsilogic"),
        (1000, "sata"),
        (2000, "nvme"),
        (3000, "ide"),
    ]
    assert len({one.key for one in many.disks}) == 5

    (nic,) = (await find_vm(vcenter, name="größe-ünïcode-数据库")).nics
    assert nic.network == "Büro-Netz"


@pytest.mark.parametrize(
    ("name", "obstacle"),
    [
        ("independent-disk", DiskObstacle.INDEPENDENT),
        ("rdm", DiskObstacle.PHYSICAL_RDM),
        ("cluster-node", DiskObstacle.SHARED_BUS),
    ],
)
async def test_disks_that_cannot_be_tracked_are_named_and_refused(
    lab: LabVCenter, vcenter: VmomiVCenter, name: str, obstacle: DiskObstacle
) -> None:
    vm = await find_vm(vcenter, name=name)
    blocked = [one for one in vm.disks if obstacle in one.obstacles]
    assert blocked
    assert obstacle.name in {one.kind.name.removeprefix("DISK_") for one in check_vm(vm)}
    with pytest.raises(CbtUnsupported) as caught:
        await enable_tracking(vcenter, CLOCK, vm.moref, 60)
    assert blocked[0].label in caught.value.message
    assert caught.value.metadata["disks"] == ",".join(str(one.key) for one in blocked)


# -- tracking


async def test_tracking_takes_effect_for_the_next_snapshot(vcenter: VmomiVCenter) -> None:
    vm = await find_vm(vcenter, name="many-controllers")
    assert await enable_tracking(vcenter, CLOCK, vm.moref, 60)
    assert not await enable_tracking(vcenter, CLOCK, vm.moref, 60)
    created = await create_snapshot(vcenter, CLOCK, vm.moref, "v2c-1", timeout_seconds=10)
    assert {one.key for one in created.view.disks} == {one.key for one in vm.disks}
    assert all(one.change_id for one in created.view.disks)
    assert all(one.path.endswith(".vmdk") for one in created.view.disks)


async def test_a_disk_whose_tracking_was_switched_off_gets_a_change_id(
    vcenter: VmomiVCenter,
) -> None:
    vm = await find_vm(vcenter, name="one-disk-untracked")
    assert vm.tracking_enabled
    assert [one.tracking_enabled for one in vm.disks] == [None, False]
    assert "DISK_TRACKING_OFF" in {one.kind.name for one in check_vm(vm)}
    assert await enable_tracking(vcenter, CLOCK, vm.moref, 60)
    created = await create_snapshot(vcenter, CLOCK, vm.moref, "v2c-1", timeout_seconds=10)
    assert all(one.change_id for one in created.view.disks)


async def test_old_hardware_is_refused(vcenter: VmomiVCenter) -> None:
    vm = await find_vm(vcenter, name="old-hardware")
    with pytest.raises(CbtUnsupported, match="version 4"):
        await enable_tracking(vcenter, CLOCK, vm.moref, 60)


# -- snapshots


@pytest.fixture
async def moref(lab: LabVCenter, vcenter: VmomiVCenter) -> str:
    found = lab.vm("linux-bios").moref
    await enable_tracking(vcenter, CLOCK, found, 60)
    return found


async def test_two_calls_at_once_make_one_snapshot(
    lab: LabVCenter, vcenter: VmomiVCenter, moref: str
) -> None:
    lab.world.settings.task_seconds = 0.2
    both = await asyncio.gather(
        *(create_snapshot(vcenter, CLOCK, moref, "v2c-1", timeout_seconds=60) for _ in range(2))
    )
    assert sorted(one.existed for one in both) == [False, True]
    assert both[0].view.snapshot.moref == both[1].view.snapshot.moref


async def test_another_task_is_waited_for(
    lab: LabVCenter, vcenter: VmomiVCenter, moref: str
) -> None:
    lab.injector.add("CreateSnapshot_Task", "TaskInProgress")
    lab.injector.add("RemoveSnapshot_Task", "TaskInProgress")
    await create_snapshot(vcenter, CLOCK, moref, "v2c-1", timeout_seconds=60)
    assert await remove_snapshot(vcenter, CLOCK, moref, name="v2c-1", timeout_seconds=60)
    assert lab.vm("linux-bios").snapshots == []


async def test_a_vm_that_stays_busy_is_an_error_that_may_be_repeated(
    lab: LabVCenter, vcenter: VmomiVCenter, moref: str
) -> None:
    lab.injector.add("CreateSnapshot_Task", "TaskInProgress", count=0)
    with pytest.raises(VCenterBusy) as caught:
        await create_snapshot(vcenter, CLOCK, moref, "v2c-1", timeout_seconds=12)
    assert caught.value.retryable


async def test_a_task_longer_than_the_deadline_is_picked_up_by_the_next_call(
    lab: LabVCenter, vcenter: VmomiVCenter, moref: str
) -> None:
    lab.world.settings.task_seconds = 0.3
    with pytest.raises(VCenterTimeout):
        await create_snapshot(vcenter, CLOCK, moref, "v2c-1", timeout_seconds=1)
    created = await create_snapshot(vcenter, CLOCK, moref, "v2c-1", timeout_seconds=60)
    assert created.existed
    assert len(lab.vm("linux-bios").snapshots) == 1


@pytest.mark.parametrize("fault", ["application-fault", "filesystem-fault"])
async def test_a_guest_that_cannot_be_quiesced(
    lab: LabVCenter, vcenter: VmomiVCenter, moref: str, fault: str
) -> None:
    lab.vm("linux-bios").settings["quiesce"] = fault
    with pytest.raises(QuiesceFailed):
        await create_snapshot(
            vcenter, CLOCK, moref, "v2c-1", quiesce=Quiesce.REQUIRED, timeout_seconds=10
        )
    assert lab.vm("linux-bios").snapshots == []
    created = await create_snapshot(vcenter, CLOCK, moref, "v2c-1", timeout_seconds=10)
    assert not created.view.snapshot.quiesced


async def test_a_quiesced_snapshot_is_reported_as_quiesced(
    vcenter: VmomiVCenter, moref: str
) -> None:
    created = await create_snapshot(vcenter, CLOCK, moref, "v2c-1", timeout_seconds=10)
    assert created.view.snapshot.quiesced


async def test_a_consolidation_that_is_needed_is_done(
    lab: LabVCenter, vcenter: VmomiVCenter, moref: str
) -> None:
    await create_snapshot(vcenter, CLOCK, moref, "v2c-1", timeout_seconds=10)
    lab.vm("linux-bios").settings["consolidation"] = "fails"
    with pytest.raises(ConsolidationNeeded):
        await remove_snapshot(vcenter, CLOCK, moref, name="v2c-1", timeout_seconds=12)
    assert (await vcenter.get_vm(moref)).consolidation_needed
    lab.vm("linux-bios").settings["consolidation"] = "normal"
    assert not await remove_snapshot(vcenter, CLOCK, moref, name="v2c-1", timeout_seconds=10)
    assert not (await vcenter.get_vm(moref)).consolidation_needed


async def test_orphans_are_found_by_their_prefix_and_removed(
    lab: LabVCenter, vcenter: VmomiVCenter, moref: str
) -> None:
    for name in ("before upgrade", "v2c-m1-p1", "v2c-m1-p2", "nightly"):
        await create_snapshot(vcenter, CLOCK, moref, name, timeout_seconds=10)
    orphans = await list_snapshots(vcenter, moref, "v2c-")
    assert [one.snapshot.name for one in orphans] == ["v2c-m1-p1", "v2c-m1-p2"]
    for one in orphans:
        await remove_snapshot(
            vcenter, CLOCK, moref, snapshot_moref=one.snapshot.moref, timeout_seconds=10
        )
    left = [one.snapshot.name for one in await list_snapshots(vcenter, moref)]
    assert left == ["before upgrade", "nightly"]


async def test_a_removed_snapshot_is_not_found(vcenter: VmomiVCenter, moref: str) -> None:
    created = await create_snapshot(vcenter, CLOCK, moref, "v2c-1", timeout_seconds=10)
    await remove_snapshot(vcenter, CLOCK, moref, name="v2c-1", timeout_seconds=10)
    with pytest.raises(SnapshotNotFound):
        await vcenter.snapshot_disks(created.view.snapshot.moref)
    with pytest.raises(SnapshotNotFound):
        await vcenter.changed_areas(moref, created.view.snapshot.moref, 2000, "*", 0)


async def test_many_tasks_are_followed_with_few_calls(lab: LabVCenter) -> None:
    lab.world.settings.task_seconds = 0.4
    async with connected(lab.endpoint(), SystemClock()) as vcenter:
        morefs = [
            one.moref
            for one in await vcenter.list_entries()
            if lab.world.vms[one.moref].spec.shared_bus == "noSharing"
        ]
        (session,) = lab.sessions.all()
        before = session.calls
        await asyncio.gather(
            *(
                vcenter.create_snapshot(one, "v2c-1", "", quiesce=False, timeout_seconds=60)
                for one in morefs
            )
        )
        following = session.calls - before - len(morefs)
    assert following < 10, "not one loop per task"


async def test_a_session_that_expires_while_a_task_is_followed(
    lab: LabVCenter, vcenter: VmomiVCenter, moref: str
) -> None:
    lab.world.settings.task_seconds = 0.3
    creating = asyncio.create_task(
        create_snapshot(vcenter, CLOCK, moref, "v2c-1", timeout_seconds=60)
    )
    await asyncio.sleep(0.1)
    lab.sessions.expire_all()
    assert not (await creating).existed


# -- power


async def test_the_guest_shuts_down_when_asked(
    lab: LabVCenter, vcenter: VmomiVCenter, moref: str
) -> None:
    await shutdown_guest(vcenter, moref)
    async with asyncio.timeout(5):
        while (await vcenter.get_vm(moref)).power is not PowerState.OFF:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await shutdown_guest(vcenter, moref)
    await power_off(vcenter, CLOCK, moref, 60)
    await power_on(vcenter, CLOCK, moref, 60)
    await power_on(vcenter, CLOCK, moref, 60)
    assert (await vcenter.get_vm(moref)).power is PowerState.ON


@pytest.mark.parametrize("name", ["no tools", "tools-stopped"])
async def test_without_tools_the_guest_cannot_be_asked_to_shut_down(
    vcenter: VmomiVCenter, name: str
) -> None:
    vm = await find_vm(vcenter, name=name)
    assert "TOOLS_NOT_RUNNING" in {one.kind.name for one in check_vm(vm)}
    with pytest.raises(ToolsNotRunning):
        await shutdown_guest(vcenter, vm.moref)
    with pytest.raises(ToolsNotRunning):
        await vcenter.shutdown_guest(vm.moref)
    await power_off(vcenter, CLOCK, vm.moref, 60)
    assert (await vcenter.get_vm(vm.moref)).power is PowerState.OFF
