"""Pools that were mounted for a migration: released by the last one that needs them, if at all."""

import json
from pathlib import Path

import pytest

from services.orchestrator.database import tables
from services.orchestrator.database.tables import DebtKind
from services.orchestrator.ports.disk import Pool, ReachedPool
from services.orchestrator.stages import Stage, State
from services.orchestrator.tick import Advance, NextTick, Outcome
from services.orchestrator.ticker import Ticker
from services.orchestrator.work import pools
from tests.rigs.orchestrator.agents import Crash, failure, machine
from tests.rigs.orchestrator.rig import Rig, new_rig, spec_text


def _mounts(rig: Rig, migration_id: str = "") -> list[str]:
    return [d.name for d in rig.view(migration_id).debts if d.kind == DebtKind.MOUNT]


def _finish(rig: Rig, migration_id: str) -> None:
    rig.controls.finalize(migration_id, "tester", now=True)
    rig.to_state(State.DONE, migration_id)


def _switch_off(rig: Rig) -> None:
    off = rig.config.storage.model_copy(update={"unmount_when_done": False})
    rig.config = rig.config.model_copy(update={"storage": off})
    rig.restart()


def _releases(rig: Rig) -> tuple[set[str], int]:
    return rig.storage.mounted, rig.world.count("disk.release_pool")


def _two_at_delta(rig: Rig) -> tuple[str, str]:
    rig.add()
    rig.add(machine("web-2", "vm-2"))
    ids = rig.submit_spec(spec_text()), rig.submit_spec(spec_text("web-2", "vm-2"))
    for id_ in ids:
        rig.run(lambda v: v.stage is Stage.DELTA, id_)
    return ids


def test_a_mount_stays_unless_its_release_is_asked_for() -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text())
        rig.to_waiting_delta()
        assert _mounts(rig) == []
        rig.finish()
        rig.tidy()
        rig.check_done(vm)
        assert _releases(rig) == ({"pool-1"}, 0)


def test_a_mount_is_released_after_the_migration_is_done_and_not_before() -> None:
    with new_rig(verify=False, unmount=True) as rig:
        rig.twice = True
        vm = rig.add()
        rig.submit_spec(spec_text(run_virt_v2v="true"))
        rig.to_waiting_delta()
        assert _mounts(rig) == ["pool-1"]
        rig.tidy()
        rig.finish()
        # Whatever an unmount waits for, the migration has not waited for it.
        assert _releases(rig) == ({"pool-1"}, 0)
        assert _mounts(rig) == ["pool-1"]
        rig.tidy()
        rig.check_done(vm)
        assert _releases(rig) == (set(), 1)


@pytest.mark.parametrize("cancelled", [True, False])
def test_of_two_migrations_on_a_pool_the_second_one_releases_it(cancelled: bool) -> None:
    with new_rig(verify=False, unmount=True) as rig:
        rig.add()
        other = rig.add(machine("web-2", "vm-2"))
        first = rig.submit_spec(spec_text())
        second = rig.submit_spec(spec_text("web-2", "vm-2"))
        rig.run(lambda v: v.stage is Stage.DELTA, second)
        rig.run(lambda v: v.stage is Stage.DELTA, first)
        if cancelled:
            rig.controls.cancel(first, "tester")
            rig.to_state(State.CANCELLED, first)
        else:
            _finish(rig, first)
        rig.tidy()
        assert _releases(rig) == ({"pool-1"}, 0)
        assert (_mounts(rig, first), _mounts(rig, second)) == (["pool-1"], ["pool-1"])
        _finish(rig, second)
        rig.tidy()
        rig.check_done(other)
        assert rig.view(first).debts == ()
        assert _releases(rig) == (set(), 1)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("crash_in", range(6))
def test_two_migrations_that_end_at_the_same_moment_leave_no_mount(
    monkeypatch: pytest.MonkeyPatch, swapped: bool, crash_in: int
) -> None:
    with new_rig(verify=False, unmount=True) as rig:
        ids = _two_at_delta(rig)
        first, second = reversed(ids) if swapped else ids
        persist = Ticker._persist

        def the_other_ends_before_the_commit(
            ticker: Ticker, before: tables.Migration, outcome: Outcome
        ) -> NextTick | None:
            if outcome == Advance(Stage.DONE) and before.id == first:
                monkeypatch.undo()
                _finish(rig, second)
                rig.tidy()
            return persist(ticker, before, outcome)

        monkeypatch.setattr(Ticker, "_persist", the_other_ends_before_the_commit)
        _finish(rig, first)
        assert {rig.view(id_).state for id_ in ids} == {State.DONE}
        if crash_in:
            rig.crash_at = rig.points + crash_in
        rig.tidy()
        rig.crash_at = 0
        rig.tidy()
        assert [rig.view(id_).debts for id_ in ids] == [(), ()]
        assert rig.storage.mounted == set()
        assert rig.world.broken == []


@pytest.mark.parametrize("without", [0, 1])
def test_a_migration_begun_while_it_was_off_takes_no_debt_along(without: int) -> None:
    with new_rig(verify=False, unmount=True) as rig:
        ids = _two_at_delta(rig)
        with rig.store.change(ids[without]) as (_, row):
            row.debts = [debt for debt in row.debts if debt.kind != DebtKind.MOUNT]
        _finish(rig, ids[1 - without])
        rig.tidy()
        assert _releases(rig) == ({"pool-1"}, 0)
        _finish(rig, ids[without])
        rig.tidy()
        assert [rig.view(id_).debts for id_ in ids] == [(), ()]
        assert _releases(rig) == (set(), 1)


def test_a_migration_that_failed_keeps_the_pool_for_its_retry() -> None:
    with new_rig(verify=False, unmount=True) as rig:
        rig.add()
        rig.add(machine("web-2", "vm-2"))
        first = rig.submit_spec(spec_text())
        rig.to_stage(Stage.BASE_COPY, first)
        rig.world.faults["disk.start_transfer"] = [failure("BROKEN")]
        rig.to_state(State.FAILED, first)
        second = rig.submit_spec(spec_text("web-2", "vm-2"))
        rig.run(lambda v: v.stage is Stage.DELTA, second)
        _finish(rig, second)
        rig.tidy()
        assert (rig.storage.mounted, _mounts(rig, second)) == ({"pool-1"}, ["pool-1"])
        rig.controls.retry(first, "tester")
        rig.run(lambda v: v.stage is Stage.DELTA and v.state is State.WAITING, first)
        _finish(rig, first)
        rig.tidy()
        assert (rig.storage.mounted, rig.world.broken) == (set(), [])
        assert rig.view(second).debts == ()


def test_an_image_of_a_migration_without_a_debt_keeps_the_pool_too() -> None:
    with new_rig(verify=False, unmount=True) as rig:
        rig.add()
        rig.add(machine("web-2", "vm-2"))
        first = rig.submit_spec(spec_text())
        rig.run(lambda v: v.stage is Stage.DELTA, first)
        with rig.store.change(first) as (_, row):
            # As when it began while unmount_when_done was off.
            row.debts = [debt for debt in row.debts if debt.kind != DebtKind.MOUNT]
        second = rig.submit_spec(spec_text("web-2", "vm-2"))
        rig.run(lambda v: v.stage is Stage.DELTA, second)
        _finish(rig, second)
        rig.tidy()
        assert _releases(rig) == ({"pool-1"}, 0)


def test_a_mount_that_others_made_is_no_debt() -> None:
    with new_rig(verify=False, unmount=True) as rig:
        vm = rig.add()
        rig.storage.mounted_by_others.add("pool-1")
        rig.submit_spec(spec_text())
        rig.to_waiting_delta()
        assert _mounts(rig) == []
        rig.finish()
        rig.tidy()
        rig.check_done(vm)
        assert rig.world.count("disk.release_pool") == 0


def test_a_mount_made_right_before_a_crash_is_released_by_cancel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with new_rig(unmount=True) as rig:
        rig.add()
        ensure = rig.storage.ensure_pool

        def mounts_and_dies(pool: Pool) -> ReachedPool:
            ensure(pool)
            monkeypatch.undo()
            raise Crash("mounted, not recorded")

        monkeypatch.setattr(rig.storage, "ensure_pool", mounts_and_dies)
        id_ = rig.submit_spec(spec_text())
        rig.to_stage(Stage.PREPARING_TARGET_STORAGE)
        with pytest.raises(Crash):
            rig.step()
        rig.restart()
        assert (rig.storage.mounted, _mounts(rig)) == ({"pool-1"}, ["pool-1"])
        rig.controls.cancel(id_, "tester")
        rig.to_state(State.CANCELLED)
        rig.tidy()
        assert (rig.storage.mounted, rig.view().debts) == (set(), ())


def test_a_pool_that_is_busy_does_not_stop_the_end_and_is_released_later() -> None:
    with new_rig(verify=False, unmount=True) as rig:
        rig.add()
        rig.world.faults["disk.release_pool"] = [failure("POOL_BUSY", message="busy")] * 2
        rig.submit_spec(spec_text())
        rig.finish()
        rig.tidy(again=False)
        (debt,) = rig.view().debts
        assert (debt.kind, debt.attempts, debt.last_error) == ("mount", 1, "busy")
        rig.tidy(again=False)
        assert rig.view().debts[0].attempts == 1
        rig.tidy()
        assert rig.view().debts[0].attempts == 2
        rig.tidy()
        assert (rig.view().debts, rig.storage.mounted) == ((), set())


def test_a_late_release_leaves_the_state_of_a_later_migration_alone() -> None:
    with new_rig(verify=False, unmount=True) as rig:
        rig.add()
        rig.world.faults["disk.release_pool"] = [failure("POOL_BUSY")]
        first = rig.submit_spec(spec_text())
        rig.to_waiting_delta()
        rig.controls.cancel(first, "tester")
        rig.to_state(State.CANCELLED, first)
        rig.tidy()
        second = rig.submit_spec(spec_text())
        view = rig.run(lambda v: v.stage is Stage.DELTA, second)
        rig.tidy()
        assert rig.view(first).debts[0].attempts == 1
        assert rig.storage.mounted == {"pool-1"}
        _finish(rig, second)
        rig.tidy()
        assert (rig.view(first).debts, rig.storage.mounted) == ((), set())
        assert json.loads((Path(view.runtime_dir) / "state.json").read_text())["id"] == second


def test_a_mount_stays_when_its_release_is_switched_off_meanwhile() -> None:
    with new_rig(verify=False, unmount=True) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text())
        rig.to_waiting_delta()
        assert _mounts(rig) == ["pool-1"]
        _switch_off(rig)
        rig.finish()
        rig.tidy()
        rig.check_done(vm)
        assert _releases(rig) == ({"pool-1"}, 0)


@pytest.mark.parametrize("tried", [False, True])
def test_a_mount_of_an_ended_migration_stays_when_its_release_is_switched_off(tried: bool) -> None:
    with new_rig(verify=False, unmount=True) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text())
        rig.finish()
        if tried:
            rig.world.faults["disk.release_pool"] = [failure("POOL_BUSY")]
            rig.tidy()
        before = rig.world.count("disk.release_pool")
        assert _mounts(rig) == ["pool-1"]
        _switch_off(rig)
        rig.tidy()
        rig.check_done(vm)
        assert _releases(rig) == ({"pool-1"}, before)


def test_a_migration_that_has_not_ended_keeps_its_debt_while_it_is_switched_off() -> None:
    with new_rig(verify=False, unmount=True) as rig:
        rig.add()
        rig.submit_spec(spec_text())
        rig.to_waiting_delta()
        _switch_off(rig)
        rig.tidy()
        assert _mounts(rig) == ["pool-1"]


def test_a_migration_that_waits_for_an_unmount_can_be_cancelled() -> None:
    with new_rig(unmount=True) as rig:
        rig.add()
        id_ = rig.submit_spec(spec_text())
        rig.to_stage(Stage.PREPARING_TARGET_STORAGE)
        rig.signals.on_wait = lambda: rig.controls.cancel(id_, "tester")
        # As while housekeeping releases the pool and its server does not answer.
        with pools._lock("pool-1"):
            rig.to_state(State.CANCELLED)
        assert rig.world.count("disk.ensure_pool") == 0
        assert rig.view().debts == ()
