"""QueryChangedDiskAreas of the lab's vCenter: paging as the real one does it, and its resets."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from lab.esxi.model import ChangedAreas
from lab.scenario import (
    MIB,
    ClusterSpec,
    Content,
    DatacenterSpec,
    DatastoreSpec,
    DiskSpec,
    NetworkSpec,
    Scenario,
    VmSpec,
)
from lab.vcenter.world.memory_disks import MemoryDisks
from services.vmware_agent.cbt import enable_tracking
from services.vmware_agent.changed_areas import stream_changed_areas
from services.vmware_agent.errors import CbtReset, VCenterFault
from services.vmware_agent.snapshots import create_snapshot, remove_snapshot
from services.vmware_agent.vcenter.adapter import VmomiVCenter
from services.vmware_agent.vm import Area, SnapshotDisk
from tests.rigs.agents.vmware import LabVCenter, QuickClock, connected, running_vcenter

CLOCK = QuickClock()
BLOCK = 65536
CAPACITY = 8 * MIB
SCENARIO = Scenario(
    "changed areas",
    (
        DatacenterSpec(
            "DC",
            clusters=(ClusterSpec("C", ("esxi-1.lab.test",)),),
            datastores=(DatastoreSpec("ds1"),),
            networks=(NetworkSpec("VM Network"),),
            vms=(VmSpec("db", disks=(DiskSpec(CAPACITY, content=Content.EMPTY),) * 2),),
        ),
    ),
)


class ScriptedDisks(MemoryDisks):
    """Reports the changed areas that the test sets; otherwise the lab's own disks."""

    def __init__(self) -> None:
        super().__init__()
        self.changed: tuple[tuple[int, int], ...] = ()

    def changed_areas(
        self,
        vm: str,
        snapshot: str,
        key: int,
        change_id: str,
        start_offset: int,
        max_areas: int = 2000,
    ) -> ChangedAreas:
        # Refuses stale ids as usual.
        super().changed_areas(vm, snapshot, key, change_id, start_offset, max_areas)
        found = [
            (max(start, start_offset), start + length - max(start, start_offset))
            for start, length in self.changed
            if start + length > start_offset
        ]
        page, later = found[:max_areas], found[max_areas:]
        end = later[0][0] if later else CAPACITY
        return ChangedAreas(start_offset, end - start_offset, tuple(page))


@pytest.fixture
def disks() -> ScriptedDisks:
    return ScriptedDisks()


@pytest.fixture
def lab(tmp_path: Path, disks: ScriptedDisks) -> Iterator[LabVCenter]:
    with running_vcenter(tmp_path, SCENARIO, disks) as running:
        yield running


@pytest.fixture
async def vcenter(lab: LabVCenter) -> AsyncIterator[VmomiVCenter]:
    async with connected(lab.endpoint(), CLOCK) as connection:
        await enable_tracking(connection, CLOCK, lab.vm("db").moref, 60)
        yield connection


async def a_pass(vcenter: VmomiVCenter, moref: str, name: str) -> tuple[str, SnapshotDisk]:
    """Snapshot for one pass: its moref and the first disk in it."""
    view = (await create_snapshot(vcenter, CLOCK, moref, name, timeout_seconds=60)).view
    return view.snapshot.moref, view.disks[0]


async def areas(vcenter: VmomiVCenter, moref: str, snapshot: str, change_id: str) -> list[Area]:
    return [
        area
        async for progress in stream_changed_areas(vcenter, moref, snapshot, 2000, change_id)
        for area in progress.areas
    ]


@pytest.mark.parametrize(
    "paging",
    [
        {},
        {"cbt_page_areas": 1},
        {"cbt_page_areas": 2, "cbt_empty_pages": True},
        {"cbt_page_bytes": 5 * BLOCK},
        {"cbt_page_bytes": BLOCK, "cbt_empty_pages": True},
    ],
)
async def test_every_way_of_paging_reports_the_same_areas(
    lab: LabVCenter, vcenter: VmomiVCenter, disks: ScriptedDisks, paging: dict[str, int]
) -> None:
    moref = lab.vm("db").moref
    _, before = await a_pass(vcenter, moref, "v2c-1")
    await remove_snapshot(vcenter, CLOCK, moref, name="v2c-1", timeout_seconds=60)
    snapshot, _ = await a_pass(vcenter, moref, "v2c-2")
    # 3 MiB of nothing first, a run of adjacent areas, and the disk's last block.
    disks.changed = (
        (48 * BLOCK, BLOCK),
        (49 * BLOCK, 7 * BLOCK),
        (60 * BLOCK, BLOCK),
        (CAPACITY - BLOCK, BLOCK),
    )
    for name, value in paging.items():
        setattr(lab.world.settings, name, value)
    assert before.change_id is not None
    assert await areas(vcenter, moref, snapshot, before.change_id) == [
        Area(48 * BLOCK, 8 * BLOCK),
        Area(60 * BLOCK, BLOCK),
        Area(CAPACITY - BLOCK, BLOCK),
    ]


async def test_nothing_changed(
    lab: LabVCenter, vcenter: VmomiVCenter, disks: ScriptedDisks
) -> None:
    moref = lab.vm("db").moref
    snapshot, disk = await a_pass(vcenter, moref, "v2c-1")
    assert await areas(vcenter, moref, snapshot, disk.change_id or "") == []


async def test_a_reset_is_seen_by_the_changed_uuid(lab: LabVCenter, vcenter: VmomiVCenter) -> None:
    record = lab.vm("db")
    _, before = await a_pass(vcenter, record.moref, "v2c-1")
    lab.world.disks.reset_tracking(record.moref, 2000)
    snapshot, _ = await a_pass(vcenter, record.moref, "v2c-2")
    with pytest.raises(CbtReset) as caught:
        await areas(vcenter, record.moref, snapshot, before.change_id or "")
    assert caught.value.metadata == {"disk": "2000", "cause": "uuid_changed"}


async def test_an_id_from_before_tracking_is_a_file_fault(
    lab: LabVCenter, vcenter: VmomiVCenter
) -> None:
    moref = lab.vm("db").moref
    snapshot, disk = await a_pass(vcenter, moref, "v2c-1")
    stale = (disk.change_id or "").rpartition("/")[0] + "/0"
    with pytest.raises(CbtReset, match="Error caused by file") as caught:
        await areas(vcenter, moref, snapshot, stale)
    assert caught.value.metadata["cause"] == "file_fault"


@pytest.mark.parametrize(
    ("fault", "cause"), [("FileFault", "file_fault"), ("InvalidArgument", "invalid_argument")]
)
async def test_faults_that_mean_a_reset_in_the_middle_of_an_answer(
    lab: LabVCenter, vcenter: VmomiVCenter, fault: str, cause: str
) -> None:
    moref = lab.vm("db").moref
    snapshot, disk = await a_pass(vcenter, moref, "v2c-1")
    lab.world.settings.cbt_page_bytes = MIB
    lab.injector.add("QueryChangedDiskAreas", fault, skip=2)
    with pytest.raises(CbtReset) as caught:
        await areas(vcenter, moref, snapshot, disk.change_id or "")
    assert caught.value.metadata["cause"] == cause
    assert not caught.value.retryable


async def test_a_host_that_does_not_answer_is_no_reset(
    lab: LabVCenter, vcenter: VmomiVCenter
) -> None:
    moref = lab.vm("db").moref
    snapshot, disk = await a_pass(vcenter, moref, "v2c-1")
    lab.injector.add("QueryChangedDiskAreas", "HostNotConnected")
    with pytest.raises(VCenterFault) as caught:
        await areas(vcenter, moref, snapshot, disk.change_id or "")
    assert caught.value.retryable


async def test_a_session_that_expires_between_two_pages(
    lab: LabVCenter, vcenter: VmomiVCenter, disks: ScriptedDisks
) -> None:
    moref = lab.vm("db").moref
    snapshot, disk = await a_pass(vcenter, moref, "v2c-1")
    disks.changed = ((0, BLOCK), (CAPACITY - BLOCK, BLOCK))
    lab.world.settings.cbt_page_bytes = MIB
    reader = stream_changed_areas(vcenter, moref, snapshot, 2000, disk.change_id or "")
    reported = list((await anext(reader)).areas)
    lab.sessions.expire_all()
    async for progress in reader:
        reported += progress.areas
    assert reported == [Area(0, BLOCK), Area(CAPACITY - BLOCK, BLOCK)]


async def test_a_disk_whose_tracking_is_off_is_reported_as_having_no_change_id(
    lab: LabVCenter, vcenter: VmomiVCenter
) -> None:
    record = lab.vm("db")
    record.extra_config = {**record.extra_config, "scsi0:0.ctkEnabled": "FALSE"}
    snapshot, disk = await a_pass(vcenter, record.moref, "v2c-1")
    assert disk.change_id is None
    with pytest.raises(CbtReset) as caught:
        await areas(vcenter, record.moref, snapshot, "52 aa/1")
    assert caught.value.metadata["cause"] == "no_change_id"
