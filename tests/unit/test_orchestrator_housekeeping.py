"""Housekeeping removes records of ended work, but none that a migration still needs."""

import threading
from datetime import datetime, timedelta
from typing import Any

import pytest

from services.orchestrator.housekeeping import Housekeeping
from services.orchestrator.stages import Stage, State
from tests.rigs.orchestrator.agents import failure, memory_agents
from tests.rigs.orchestrator.rig import Rig, new_rig, spec_text

_RETENTION = timedelta(days=30)


class Ticks:
    """Replaces the engine: records the times before which finished ticks were to be removed."""

    def __init__(self) -> None:
        self.before: list[datetime] = []
        self.asked = threading.Event()

    def forget(self, before: datetime) -> int:
        self.before.append(before)
        self.asked.set()
        return 0


def housekeeping(
    rig: Rig, ticks: Ticks | None = None, *, unmount_when_done: bool = False
) -> Housekeeping:
    forget = (ticks or Ticks()).forget
    return Housekeeping(
        rig.store,
        rig.memory.agents.disk,
        forget,
        _RETENTION,
        unmount_when_done=unmount_when_done,
    )


def asked(rig: Rig) -> list[tuple[set[str], set[str], datetime]]:
    """The images, range sets and times of all later prune_records calls."""
    given: list[tuple[set[str], set[str], datetime]] = []

    def note(name: str, args: tuple[Any, ...]) -> None:
        if name == "disk.prune_records":
            given.append((set(args[0]), set(args[1]), args[2]))

    rig.world.before.append(note)
    return given


@pytest.mark.parametrize("crash_every", [0, 29])
def test_tidying_at_any_moment_removes_nothing_that_a_migration_needs(crash_every: int) -> None:
    # The tests' storage host removes all records that are not in use, whatever their age.
    with new_rig(memory_agents(pace=3)) as rig:
        vm = rig.add()

        def tidy(name: str, args: tuple[Any, ...]) -> None:
            if name != "disk.prune_records":
                housekeeping(rig).tidy()

        rig.world.before.append(tidy)
        rig.crash_at = rig.crash_every = crash_every
        rig.submit_spec(spec_text(run_virt_v2v="true"))
        rig.to_waiting_delta(passes=2)
        rig.finish()
        rig.check_done(vm)
        assert not crash_every or rig.crashes > 4


def test_a_range_set_is_in_use_before_its_transfer_starts() -> None:
    with new_rig(verify=False) as rig:
        rig.add()
        rig.submit_spec(spec_text())
        rig.to_waiting_delta()
        given = asked(rig)

        def tidy(name: str, args: tuple[Any, ...]) -> None:
            if name == "disk.start_transfer":
                housekeeping(rig).tidy()

        rig.world.before.append(tidy)
        rig.to_waiting_delta(passes=1)
        assert rig.storage.ranges
        assert given[0][1] >= rig.storage.ranges.keys()


def test_the_records_of_an_ended_migration_are_no_longer_in_use() -> None:
    with new_rig(verify=False) as rig:
        rig.add()
        rig.submit_spec(spec_text(run_virt_v2v="true"))
        view = rig.to_waiting_delta(passes=1)
        given = asked(rig)
        housekeeping(rig).tidy()
        assert given[-1][0] == {disk.target_path for disk in view.disks}
        # A call takes a moment.
        assert given[-1][2] == rig.clock.now - _RETENTION - timedelta(milliseconds=1)
        rig.finish()
        assert rig.storage.transfers
        housekeeping(rig).tidy()
        assert given[-1][:2] == (set(), set())
        assert (rig.storage.transfers, rig.storage.ranges, rig.storage.conversions) == ({}, {}, {})


@pytest.mark.parametrize("how", ["paused", "failed"])
def test_a_migration_that_is_suspended_for_months_finds_all_it_needs(how: str) -> None:
    with new_rig() as rig:
        vm = rig.add()
        id_ = rig.submit_spec(spec_text())
        rig.to_waiting_delta(passes=1)
        if how == "paused":
            rig.controls.pause(id_, "tester")
            rig.to_state(State.PAUSED)
        else:
            rig.world.faults["vmware.changed_areas"] = [failure("BROKEN") for _ in range(9)]
            rig.to_state(State.FAILED)
            rig.world.faults.clear()
        rig.clock.advance(100 * 86400)
        housekeeping(rig).tidy()
        (rig.controls.resume if how == "paused" else rig.controls.retry)(id_, "tester")
        rig.finish()
        rig.check_done(vm)


def test_a_rollback_after_the_end_needs_nothing_of_it() -> None:
    with new_rig() as rig:
        vm = rig.add()
        id_ = rig.submit_spec(spec_text())
        rig.finish()
        rig.clock.advance(100 * 86400)
        housekeeping(rig).tidy()
        rig.controls.rollback(id_, "tester")
        assert rig.to_state(State.ROLLED_BACK).stage is Stage.DONE
        assert (vm.power, rig.world.broken) == ("on", [])


def test_a_storage_host_that_cannot_be_reached_is_asked_again() -> None:
    with new_rig() as rig:
        ticks = Ticks()
        rig.world.faults["disk.prune_records"] = [failure("UNREACHABLE", retryable=True)]
        now = rig.clock.now
        housekeeping(rig, ticks).tidy()
        assert ticks.before == [now - timedelta(hours=1)]
        given = asked(rig)
        housekeeping(rig, ticks).tidy()
        assert len(given) == 1


def test_it_tidies_as_soon_as_it_is_started_and_survives_a_failure() -> None:
    with new_rig() as rig:
        ticks = Ticks()
        rig.world.faults["disk.prune_records"] = [RuntimeError("a defect")]
        thread = housekeeping(rig, ticks)
        thread.start()
        assert ticks.asked.wait(5)
        thread.stop()


@pytest.mark.parametrize("busy", [False, True])
def test_it_looks_for_mounts_once_when_a_migration_has_ended(
    monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    looked: list[bool] = []
    looks = threading.Semaphore(0)
    tidy_mounts = Housekeeping.tidy_mounts

    def counted(keeper: Housekeeping, *, again: bool) -> None:
        tidy_mounts(keeper, again=again)
        looked.append(again)
        looks.release()

    monkeypatch.setattr(Housekeeping, "tidy_mounts", counted)
    with new_rig(verify=False, unmount=True) as rig:
        rig.add()
        rig.submit_spec(spec_text())
        thread = housekeeping(rig, unmount_when_done=True)
        thread.start()
        assert looks.acquire(timeout=5)
        rig.to_waiting_delta()
        if busy:
            rig.world.faults["disk.release_pool"] = [failure("POOL_BUSY")]
        rig.finish()
        assert looks.acquire(timeout=5)
        # A release that failed, and is recorded with the migration, is not tried at once again.
        assert not busy or not looks.acquire(timeout=0.2)
        thread.stop()
        assert looked[:2] == [True, False]
        assert rig.world.count("disk.release_pool") == 1
        assert rig.storage.mounted == ({"pool-1"} if busy else set())


def test_a_stop_right_after_the_end_of_a_migration_still_releases_its_pool() -> None:
    with new_rig(verify=False, unmount=True) as rig:
        rig.add()
        rig.submit_spec(spec_text())
        rig.to_waiting_delta()
        at_work, may_continue = threading.Event(), threading.Event()

        def hold(name: str, args: tuple[Any, ...]) -> None:
            if name == "disk.prune_records":
                at_work.set()
                may_continue.wait(5)

        rig.world.before.append(hold)
        thread = housekeeping(rig, unmount_when_done=True)
        thread.start()
        assert at_work.wait(5)
        rig.finish()
        assert rig.storage.mounted == {"pool-1"}
        threading.Timer(0.2, may_continue.set).start()
        thread.stop()
        assert rig.storage.mounted == set()
