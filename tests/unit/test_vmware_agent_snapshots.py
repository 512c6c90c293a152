import pytest

from services.vmware_agent.errors import (
    ConsolidationNeeded,
    DatastoreFull,
    InvalidQuery,
    QuiesceFailed,
    VCenterBusy,
    VCenterFault,
    VCenterUnreachable,
)
from services.vmware_agent.snapshots import (
    Created,
    Quiesce,
    consolidate,
    create_snapshot,
    list_snapshots,
    remove_snapshot,
)
from services.vmware_agent.vm import PowerState
from tests.rigs.fakes.vcenter import FakeClock, MemoryVCenter, snapshot, vm


def busy() -> VCenterBusy:
    return VCenterBusy(message="another task is already in progress")


def locked() -> VCenterFault:
    return VCenterFault(message="a file is locked", retryable=True)


async def create(
    vcenter: MemoryVCenter,
    clock: FakeClock,
    quiesce: Quiesce = Quiesce.AUTO,
    timeout_seconds: float = 60,
) -> Created:
    return await create_snapshot(
        vcenter, clock, "vm-1", "v2c-m1-p1", quiesce=quiesce, timeout_seconds=timeout_seconds
    )


async def remove(vcenter: MemoryVCenter, clock: FakeClock, seconds: float = 60) -> bool:
    return await remove_snapshot(vcenter, clock, "vm-1", name="v2c-m1-p1", timeout_seconds=seconds)


async def test_the_same_name_again_finds_the_first_snapshot() -> None:
    vcenter, clock = MemoryVCenter(vm()), FakeClock()
    first = await create(vcenter, clock)
    again = await create(vcenter, clock)
    assert (first.existed, again.existed) == (False, True)
    assert again.view == first.view
    assert len(vcenter.called("create_snapshot")) == 1


async def test_a_snapshot_whose_answer_got_lost_is_found_by_the_next_call() -> None:
    vcenter, clock = MemoryVCenter(vm()), FakeClock()

    def made_but_unheard() -> None:
        vcenter.add_snapshot("vm-1", "v2c-m1-p1")
        raise VCenterUnreachable(message="connection reset")

    vcenter.fail("create_snapshot", made_but_unheard)
    with pytest.raises(VCenterUnreachable):
        await create(vcenter, clock)
    assert (await create(vcenter, clock)).existed


async def test_a_busy_vm_is_waited_for_and_looked_at_again() -> None:
    vcenter, clock = MemoryVCenter(vm()), FakeClock()

    def first_call_still_runs() -> None:
        vcenter.add_snapshot("vm-1", "v2c-m1-p1")
        raise busy()

    vcenter.fail("create_snapshot", busy(), first_call_still_runs)
    assert (await create(vcenter, clock)).existed
    assert len(vcenter.vms["vm-1"].snapshots) == 1


async def test_a_forgotten_task_that_ends_just_before_our_try_leaves_one_snapshot() -> None:
    vcenter, clock = MemoryVCenter(vm()), FakeClock()
    # Not seen by the look, there before the try, which succeeds as well.
    vcenter.fail("create_snapshot", lambda: _add(vcenter))
    created = await create(vcenter, clock)
    assert created.existed
    assert created.view.snapshot.moref == "snapshot-1"
    assert [one.moref for one in vcenter.vms["vm-1"].snapshots] == ["snapshot-1"]


def _add(vcenter: MemoryVCenter) -> None:
    vcenter.add_snapshot("vm-1", "v2c-m1-p1")


async def test_waiting_ends_with_the_deadline() -> None:
    vcenter, clock = MemoryVCenter(vm()), FakeClock()
    vcenter.fail("create_snapshot", *[busy()] * 50)
    with pytest.raises(VCenterBusy):
        await create(vcenter, clock)
    assert 40 < clock.now < 60
    assert len(clock.sleeps) < 10, "the pauses grow"


async def test_auto_falls_back_to_a_crash_consistent_snapshot() -> None:
    vcenter, clock = MemoryVCenter(vm()), FakeClock()
    vcenter.fail("create_snapshot", QuiesceFailed(message="VSS writer failed"))
    created = await create(vcenter, clock)
    assert not created.view.snapshot.quiesced
    assert [call[2] for call in vcenter.called("create_snapshot")] == [True, False]


async def test_required_quiescing_fails_rather_than_falls_back() -> None:
    vcenter, clock = MemoryVCenter(vm()), FakeClock()
    vcenter.fail("create_snapshot", QuiesceFailed(message="VSS writer failed"))
    with pytest.raises(QuiesceFailed):
        await create(vcenter, clock, Quiesce.REQUIRED)
    assert not vcenter.vms["vm-1"].snapshots


async def test_required_quiescing_of_a_running_vm_needs_tools() -> None:
    vcenter, clock = MemoryVCenter(vm(tools_running=False)), FakeClock()
    with pytest.raises(QuiesceFailed, match="Tools do not run") as caught:
        await create(vcenter, clock, Quiesce.REQUIRED)
    assert not caught.value.retryable
    vcenter.change("vm-1", power=PowerState.OFF)
    assert not (await create(vcenter, clock, Quiesce.REQUIRED)).existed


@pytest.mark.parametrize(
    ("quiesce", "tools_running", "asked"),
    [(Quiesce.AUTO, True, True), (Quiesce.AUTO, False, False), (Quiesce.OFF, True, False)],
)
async def test_quiescing_is_asked_for_where_it_can_work(
    quiesce: Quiesce, tools_running: bool, asked: bool
) -> None:
    vcenter = MemoryVCenter(vm(tools_running=tools_running))
    await create(vcenter, FakeClock(), quiesce)
    assert vcenter.called("create_snapshot") == [("vm-1", "v2c-m1-p1", asked)]


@pytest.mark.parametrize("name", ["", "x" * 81])
async def test_names_vsphere_would_refuse_are_refused_here(name: str) -> None:
    with pytest.raises(InvalidQuery):
        await create_snapshot(MemoryVCenter(vm()), FakeClock(), "vm-1", name, timeout_seconds=9)


async def test_removing_what_is_gone_is_no_error() -> None:
    vcenter, clock = MemoryVCenter(vm()), FakeClock()
    await create(vcenter, clock)
    assert await remove(vcenter, clock)
    assert not await remove(vcenter, clock)
    assert not vcenter.vms["vm-1"].snapshots


async def test_removal_waits_for_other_tasks_and_passing_faults() -> None:
    vcenter, clock = MemoryVCenter(vm()), FakeClock()
    await create(vcenter, clock)
    vcenter.fail("remove_snapshot", busy(), locked(), busy())
    assert await remove(vcenter, clock)
    assert not vcenter.vms["vm-1"].snapshots


async def test_a_removal_that_worked_though_it_failed_counts() -> None:
    vcenter, clock = MemoryVCenter(vm()), FakeClock()
    made = (await create(vcenter, clock)).view.snapshot.moref

    def gone_with_an_error() -> None:
        vcenter.drop_snapshot(made)
        raise locked()

    vcenter.fail("remove_snapshot", gone_with_an_error)
    assert await remove(vcenter, clock)


async def test_a_fault_that_will_not_pass_is_raised_at_once() -> None:
    vcenter, clock = MemoryVCenter(vm()), FakeClock()
    await create(vcenter, clock)
    vcenter.fail("remove_snapshot", DatastoreFull(message="no space"))
    with pytest.raises(DatastoreFull):
        await remove(vcenter, clock)
    assert clock.sleeps == []


async def test_foreign_snapshots_are_left_alone() -> None:
    vcenter, clock = MemoryVCenter(vm(snapshots=(snapshot("before upgrade"),))), FakeClock()
    await create(vcenter, clock)
    await remove(vcenter, clock)
    assert [one.name for one in vcenter.vms["vm-1"].snapshots] == ["before upgrade"]


async def test_all_snapshots_of_our_name_go_but_foreign_twins_are_not_guessed() -> None:
    vcenter, clock = MemoryVCenter(vm()), FakeClock()
    for name in ("v2c-m1-p1", "v2c-m1-p1", "daily", "daily"):
        vcenter.add_snapshot("vm-1", name)
    assert await remove(vcenter, clock)
    with pytest.raises(InvalidQuery, match="snapshot-3, snapshot-4"):
        await remove_snapshot(vcenter, clock, "vm-1", name="daily", timeout_seconds=9)
    assert [one.moref for one in vcenter.vms["vm-1"].snapshots] == ["snapshot-3", "snapshot-4"]


async def test_removal_consolidates_when_vcenter_asks_for_it() -> None:
    vcenter, clock = MemoryVCenter(vm()), FakeClock()
    made = (await create(vcenter, clock)).view.snapshot.moref

    def removed_without_merging() -> None:
        vcenter.drop_snapshot(made)
        vcenter.change("vm-1", consolidation_needed=True)
        raise VCenterFault(message="unable to consolidate", retryable=True)

    vcenter.fail("remove_snapshot", removed_without_merging)
    vcenter.fail("consolidate", locked(), busy())
    assert await remove(vcenter, clock)
    assert not vcenter.vms["vm-1"].consolidation_needed


async def test_consolidation_that_never_succeeds_says_why() -> None:
    vcenter, clock = MemoryVCenter(vm(consolidation_needed=True)), FakeClock()
    vcenter.fail("consolidate", *[locked()] * 50)
    with pytest.raises(ConsolidationNeeded, match="a file is locked") as caught:
        await consolidate(vcenter, clock, "vm-1", 60)
    assert caught.value.retryable


async def test_listing_by_prefix_is_oldest_first_at_any_depth() -> None:
    old = snapshot("v2c-old", "snapshot-1", create_time=1.0)
    new = snapshot("v2c-new", "snapshot-3", create_time=3.0)
    root = snapshot("manual", "snapshot-2", create_time=2.0, children=(new, old))
    vcenter = MemoryVCenter(vm(snapshots=(root,)))
    views = await list_snapshots(vcenter, "vm-1", "v2c-")
    assert [view.snapshot.name for view in views] == ["v2c-old", "v2c-new"]
    assert len(await list_snapshots(vcenter, "vm-1")) == 3
