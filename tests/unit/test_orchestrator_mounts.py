"""Pools that were mounted for a migration: released by the last one that needs them, if at all."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from services.orchestrator.database.tables import DebtKind
from services.orchestrator.housekeeping import Housekeeping
from services.orchestrator.ports.disk import Pool, ReachedPool
from services.orchestrator.stages import Stage, State
from tests.rigs.orchestrator.agents import Crash, failure, machine
from tests.rigs.orchestrator.rig import Rig, new_rig, spec_text


def _mounts(rig: Rig, migration_id: str = "") -> list[str]:
    return [d.name for d in rig.view(migration_id).debts if d.kind == DebtKind.MOUNT]


def _finish(rig: Rig, migration_id: str) -> None:
    rig.controls.finalize(migration_id, "tester", now=True)
    rig.to_state(State.DONE, migration_id)


def _tidy(rig: Rig) -> None:
    Housekeeping(rig.store, rig.memory.agents.disk, lambda _: 0, timedelta(days=30)).tidy()


def test_a_mount_stays_unless_its_release_is_asked_for() -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text())
        rig.to_waiting_delta()
        assert _mounts(rig) == []
        rig.finish()
        rig.check_done(vm)
        assert (rig.storage.mounted, rig.world.count("disk.release_pool")) == ({"pool-1"}, 0)


def test_a_mount_is_a_debt_until_the_migration_is_done() -> None:
    with new_rig(verify=False, unmount=True) as rig:
        rig.twice = True
        vm = rig.add()
        rig.submit_spec(spec_text(run_virt_v2v="true"))
        rig.to_waiting_delta()
        assert _mounts(rig) == ["pool-1"]
        rig.finish()
        rig.check_done(vm)
        assert (rig.storage.mounted, rig.world.count("disk.release_pool")) == (set(), 1)


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
        assert rig.view(first).debts == ()
        assert (rig.storage.mounted, rig.world.count("disk.release_pool")) == ({"pool-1"}, 0)
        assert _mounts(rig, second) == ["pool-1"]
        _finish(rig, second)
        rig.check_done(other)
        assert (rig.storage.mounted, rig.world.count("disk.release_pool")) == (set(), 1)


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
        assert (rig.storage.mounted, rig.view(second).debts) == ({"pool-1"}, ())
        rig.controls.retry(first, "tester")
        rig.run(lambda v: v.stage is Stage.DELTA and v.state is State.WAITING, first)
        _finish(rig, first)
        assert (rig.storage.mounted, rig.world.broken) == (set(), [])


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
        assert (rig.storage.mounted, rig.world.count("disk.release_pool")) == ({"pool-1"}, 0)


def test_a_mount_that_others_made_is_no_debt() -> None:
    with new_rig(verify=False, unmount=True) as rig:
        vm = rig.add()
        rig.storage.mounted_by_others.add("pool-1")
        rig.submit_spec(spec_text())
        rig.to_waiting_delta()
        assert _mounts(rig) == []
        rig.finish()
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
        assert (rig.storage.mounted, rig.view().debts) == (set(), ())


def test_a_pool_that_is_busy_does_not_stop_the_end_and_is_released_later() -> None:
    with new_rig(verify=False, unmount=True) as rig:
        rig.add()
        rig.world.faults["disk.release_pool"] = [failure("POOL_BUSY", message="busy")] * 2
        rig.submit_spec(spec_text())
        view = rig.finish()
        (debt,) = view.debts
        assert (debt.kind, debt.attempts, debt.last_error) == ("mount", 1, "busy")
        _tidy(rig)
        assert rig.view().debts[0].attempts == 2
        _tidy(rig)
        assert (rig.view().debts, rig.storage.mounted) == ((), set())


def test_a_late_release_leaves_the_state_of_a_later_migration_alone() -> None:
    with new_rig(verify=False, unmount=True) as rig:
        rig.add()
        rig.world.faults["disk.release_pool"] = [failure("POOL_BUSY")]
        first = rig.submit_spec(spec_text())
        rig.to_waiting_delta()
        rig.controls.cancel(first, "tester")
        rig.to_state(State.CANCELLED, first)
        second = rig.submit_spec(spec_text())
        view = rig.run(lambda v: v.stage is Stage.DELTA, second)
        _tidy(rig)
        assert rig.view(first).debts == ()
        assert json.loads((Path(view.runtime_dir) / "state.json").read_text())["id"] == second
        assert rig.storage.mounted == {"pool-1"}


def test_a_mount_stays_when_its_release_is_switched_off_meanwhile() -> None:
    with new_rig(verify=False, unmount=True) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text())
        rig.to_waiting_delta()
        assert _mounts(rig) == ["pool-1"]
        off = rig.config.storage.model_copy(update={"unmount_when_done": False})
        rig.config = rig.config.model_copy(update={"storage": off})
        rig.restart()
        rig.finish()
        rig.check_done(vm)
        assert (rig.storage.mounted, rig.world.count("disk.release_pool")) == ({"pool-1"}, 0)
