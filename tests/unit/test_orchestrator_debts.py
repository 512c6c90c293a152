"""Debts as operators see them: what must be undone, and since when."""

from datetime import timedelta

from sqlalchemy import select

from services.orchestrator.database import tables
from services.orchestrator.database.tables import DebtKind
from services.orchestrator.stages import State
from services.orchestrator.work.debts import add_debt, drop_debts
from tests.rigs.orchestrator.agents import failure
from tests.rigs.orchestrator.rig import new_rig, spec_text


def test_a_snapshot_that_cannot_be_removed_is_listed_with_the_age_of_its_debt() -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        rig.world.faults["vmware.remove_snapshot"] = [failure("BROKEN") for _ in range(9)]
        rig.submit_spec(spec_text())
        view = rig.to_state(State.FAILED)
        (name,) = vm.snapshot_names
        assert [(debt.kind, debt.name) for debt in view.debts] == [
            *(("image", disk.target_path) for disk in view.disks),
            ("snapshot", name),
        ]
        assert view.passes[0].start_time >= view.debts[-1].create_time
        # Once to continue, once before the migration stops in failed.
        assert [debt.attempts for debt in view.debts] == [0, 0, 2]
        assert view.debts[-1].last_error == "broken"
        rig.clock.advance(3600)
        rig.world.faults.clear()
        rig.controls.retry(view.id, "tester")
        assert rig.view().debts == view.debts
        assert [debt.kind for debt in rig.to_waiting_delta().debts] == ["image", "image"]


def test_the_age_of_a_debt_that_is_added_again_begins_anew() -> None:
    with new_rig(verify=False) as rig:
        rig.add()
        rig.submit_spec(spec_text())
        first = rig.to_waiting_delta().debts[0]
        with rig.store.change(rig.view().id) as (_, row):
            drop_debts(row, DebtKind.IMAGE)
        assert rig.view().debts == ()
        rig.clock.advance(60)
        with rig.store.change(rig.view().id) as (session, row):
            add_debt(session, rig.clock, row, DebtKind.IMAGE, first.name)
            add_debt(session, rig.clock, row, DebtKind.IMAGE, first.name)
        (again,) = rig.view().debts
        assert again.name == first.name
        assert again.create_time - first.create_time >= timedelta(seconds=60)


def test_a_debt_that_is_settled_leaves_no_row() -> None:
    with new_rig(verify=False) as rig:
        rig.add()
        rig.submit_spec(spec_text())
        rig.to_waiting_delta(passes=3)
        with rig.store.reading() as session:
            assert session.scalars(select(tables.Debt.kind)).all() == ["image", "image"]
        rig.finish()
        with rig.store.reading() as session:
            assert session.scalars(select(tables.Debt.kind)).all() == []
