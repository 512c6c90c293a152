"""Marker files, and several machines at once."""

from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from sqlalchemy import event

from services.orchestrator.ports.cloudstack import Job, JobState
from services.orchestrator.ports.vmware import PowerState
from services.orchestrator.stages import Stage, State
from tests.rigs.orchestrator.agents import failure, machine, memory_agents, reported
from tests.rigs.orchestrator.rig import new_rig, spec_text

# -- marker files


@pytest.mark.parametrize(("marker", "kinds"), [("FINALIZE", 2), ("FINALIZE_NOW", 1)])
def test_a_marker_file_is_a_request(marker: str, kinds: int) -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text())
        view = rig.to_waiting_delta(passes=1)
        path = Path(view.runtime_dir) / marker
        path.touch()
        rig.markers.look()
        assert not path.exists()
        assert rig.to_state(State.DONE).delta_passes == kinds
        rig.check_done(vm)


def test_shutdown_markers_decide_the_shutdown() -> None:
    with new_rig(verify=False) as rig:
        rig.add().tools = False
        rig.submit_spec(spec_text())
        rig.to_waiting_delta()
        rig.controls.finalize(rig.view().id, "tester", now=True)
        view = rig.to_stage(Stage.AWAITING_SHUTDOWN_ACTION)
        (Path(view.runtime_dir) / "SHUTDOWN_FORCE").touch()
        rig.markers.look()
        rig.to_state(State.DONE)


def test_a_marker_that_its_stage_does_not_allow_is_removed_and_changes_nothing() -> None:
    with new_rig(verify=False) as rig:
        rig.add()
        rig.submit_spec(spec_text())
        view = rig.to_waiting_delta()
        path = Path(view.runtime_dir) / "SHUTDOWN_FORCE"
        path.touch()
        rig.markers.look()
        assert not path.exists()
        assert rig.view().revision == view.revision


def test_a_marker_left_from_an_earlier_migration_does_not_finalize_the_next() -> None:
    with new_rig(verify=False) as rig:
        rig.add()
        id_ = rig.submit_spec(spec_text())
        view = rig.to_waiting_delta()
        rig.controls.cancel(id_, "tester")
        rig.to_state(State.CANCELLED)
        (Path(view.runtime_dir) / "FINALIZE_NOW").touch()
        second = rig.submit_spec(spec_text())
        rig.to_stage(Stage.DELTA, second)
        rig.markers.look()
        assert not rig.view(second).finalize_requested


# -- several machines


def test_no_more_machines_copy_at_once_than_there_are_slots() -> None:
    with new_rig(memory_agents(pace=40), verify=False, parallel_vms=2) as rig:
        for number in range(5):
            rig.add(machine(f"vm{number}", f"vm-{number}", disks=(8,)))
            rig.submit_spec(spec_text(f"vm{number}", f"vm-{number}", nics=False))
        most = 0
        while any(v.stage in {Stage.INIT, Stage.BASE_COPY} for v in rig.store.list()):
            rig.step()
            copying = [
                v for v in rig.store.list()
                if v.stage > Stage.INIT and v.stage not in {Stage.INIT, Stage.DELTA}
            ]  # fmt: skip
            most = max(most, len(copying))
        assert most == 2


def test_machines_wait_in_the_order_of_their_submission_and_cost_little_meanwhile() -> None:
    with new_rig(parallel_vms=2) as rig:
        for n in range(20):
            rig.add(machine(f"vm{n:02}", f"vm-{n}"))
        ids = [rig.submit_spec(spec_text(f"vm{n:02}", f"vm-{n}")) for n in range(20)]
        rig.world.faults["cloudstack.resolve_pool"] = [failure("AWAY", retryable=True)] * 1000
        end = rig.clock.now + timedelta(seconds=60)
        while rig.clock.now < end:
            rig.step()
        assert [v.stage is not Stage.INIT for v in rig.store.list()] == [True] * 2 + [False] * 18
        # Two seconds apart, all 18 would have looked 30 times each.
        assert sum(rig.row(id_).tick for id_ in ids[2:]) < 270


def test_starting_twice_is_starting_once() -> None:
    with new_rig() as rig:
        id_ = rig.submit_spec(spec_text())
        revision = rig.view().revision
        rig.controls.start(id_, "tester")
        assert rig.view().revision == revision
        assert len(rig.events("operator.start")) == 1


def test_a_failed_machine_frees_its_slot() -> None:
    with new_rig(verify=False, parallel_vms=1) as rig:
        rig.add()
        rig.add(machine("web-2", "vm-2"))
        rig.world.faults["vmware.enable_tracking"] = [failure("CBT_UNSUPPORTED")]
        first = rig.submit_spec(spec_text())
        second = rig.submit_spec(spec_text("web-2", "vm-2"))
        rig.to_state(State.FAILED, first)
        rig.to_stage(Stage.DELTA, second)


def test_the_same_machine_is_one_migration() -> None:
    with new_rig() as rig:
        rig.add()
        first = rig.submit_spec(spec_text())
        assert rig.submit_spec(spec_text()) == first
        assert rig.submit_spec(spec_text(moref="")) == first
        rig.to_waiting_delta()
        assert rig.submit_spec(spec_text(delta_interval=60)) == first
        assert rig.events("spec.changed")


def test_the_same_machine_under_two_names_is_refused() -> None:
    with new_rig() as rig:
        rig.add()
        first = rig.submit_spec(spec_text())
        rig.to_waiting_delta()
        other = rig.submit_spec(spec_text("renamed", "vm-1").replace("  moref: vm-1\n", ""))
        rig.vcenter.vms["vm-1"].name = "renamed"
        view = rig.to_state(State.FAILED, other)
        assert view.error is not None
        assert view.error.reason == "MIGRATION_EXISTS"
        assert first in view.error.message


def test_a_second_migration_never_writes_into_the_first_ones_volumes() -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        first = rig.submit_spec(spec_text())
        rig.finish()
        before = {path: dict(image.blocks) for path, image in rig.storage.images.items()}
        # One that is done is not migrated again by accident.
        assert rig.submit_spec(spec_text()) == first
        rig.controls.rollback(first, "tester")
        rig.to_state(State.ROLLED_BACK, first)
        assert vm.power is PowerState.ON
        second = rig.submit_spec(spec_text())
        rig.to_stage(Stage.DELTA, second)
        rig.controls.cancel(second, "tester")
        rig.to_state(State.CANCELLED, second)
        assert {p: dict(i.blocks) for p, i in rig.storage.images.items()} == before


def test_a_failed_job_is_reported_with_cloudstacks_own_message() -> None:
    with new_rig(verify=False) as rig:
        rig.add()
        rig.submit_spec(spec_text())
        rig.cloudstack.failures["import_vm"] = [
            Job(
                "",
                JobState.FAILED,
                "",
                reported("CLOUDSTACK_CAPACITY_EXHAUSTED", "no host has room"),
            )
        ]
        rig.to_waiting_delta()
        rig.controls.finalize(rig.view().id, "tester", now=True)
        view = rig.to_state(State.FAILED)
        assert view.error is not None
        assert (view.stage, view.error.message) == (Stage.IMPORT_ROOT_DISK, "no host has room")


def test_a_thousand_machines_are_submitted_in_one_transaction() -> None:
    with new_rig() as rig:
        known = rig.submit_spec(spec_text("vm7", "", nics=False))
        commits: list[object] = []
        event.listen(rig.store._engine, "commit", commits.append)
        text = yaml.safe_dump({"vms": [{"vm": {"name": f"vm{n}"}} for n in range(1000)]})
        views = rig.submission.submit(text, "fleet.yaml").migrations
        assert [view.vm_name for view in views] == [f"vm{n}" for n in range(1000)]
        assert views[7].id == known
        assert len(rig.store.list(limit=2000)) == 1000
        # One for all that are new, one for the known one's new spec: each waits for the disk.
        assert len(commits) <= 2
