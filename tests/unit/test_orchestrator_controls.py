"""Operators' controls: at which stages they are possible, and their effects."""

from collections.abc import Callable

import pytest

from services.kit.failure import ServiceError
from services.orchestrator.ports.vmware import PowerState
from services.orchestrator.stages import STAGE_TABLE, Control, Stage, State, allowed
from tests.rigs.orchestrator.agents import MemoryVm, failure, memory_agents
from tests.rigs.orchestrator.rig import Rig, new_rig, spec_text

_UNTIL_IMPORT = [s for s in Stage if Control.CANCEL in STAGE_TABLE[s].controls]


def _course(rig: Rig, stage: Stage) -> str:
    """A migration that has just entered a stage, with conversion and a decision to make."""
    vm = rig.add()
    vm.tools = stage is not Stage.AWAITING_SHUTDOWN_ACTION
    id_ = rig.submit_spec(spec_text(run_virt_v2v="true", start_vm_after_import="true"))
    if list(Stage).index(stage) > list(Stage).index(Stage.DELTA):
        rig.to_waiting_delta()
        rig.controls.finalize(id_, "tester", now=True)
    rig.to_stage(stage)
    return id_


def _check_untouched(rig: Rig, vm: MemoryVm) -> None:
    """Both sides are as before the migration."""
    assert rig.world.broken == []
    assert (vm.snapshots, vm.power) == ({}, "on")
    assert (rig.storage.images, rig.cloudstack.vms, rig.cloudstack.volumes) == ({}, {}, {})
    assert rig.view().open_debts == 0


@pytest.mark.parametrize("stage", _UNTIL_IMPORT)
def test_cancel_undoes_everything_at_every_stage_before_the_import(stage: Stage) -> None:
    with new_rig() as rig:
        id_ = _course(rig, stage)
        (vm,) = rig.vcenter.vms.values()
        rig.controls.cancel(id_, "tester")
        rig.controls.cancel(id_, "tester")
        view = rig.to_state(State.CANCELLED)
        assert view.stage is stage
        assert view.downtime is None or view.downtime.end_time is not None
        _check_untouched(rig, vm)
        # A new migration of the same machine starts afresh.
        assert rig.submit_spec(spec_text()) != id_


@pytest.mark.parametrize("stage", [s for s in Stage if Control.ROLLBACK in STAGE_TABLE[s].controls])
def test_rollback_brings_the_source_back(stage: Stage) -> None:
    with new_rig() as rig:
        id_ = _course(rig, stage)
        (vm,) = rig.vcenter.vms.values()
        rig.controls.rollback(id_, "tester")
        view = rig.to_state(State.ROLLED_BACK)
        assert view.stage is stage
        assert rig.world.broken == []
        assert (vm.snapshots, vm.power, rig.cloudstack.vms) == ({}, "on", {})
        assert rig.cloudstack.volumes == {}
        assert view.open_debts == 0
        rig.controls.rollback(id_, "tester")
        assert rig.view().state is State.ROLLED_BACK


@pytest.mark.parametrize("kind", ["import_vm", "import_volume", "attach_volume"])
def test_rollback_waits_for_a_running_job_and_undoes_its_result(kind: str) -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        rig.cloudstack.polls = 5
        id_ = rig.submit_spec(spec_text())

        def roll_back() -> None:
            jobs = rig.cloudstack.jobs.values()
            if any(j.kind == kind and j.job.state == "running" for j in jobs):
                rig.signals.on_wait = lambda: None
                rig.controls.rollback(id_, "tester")

        rig.to_waiting_delta()
        rig.signals.on_wait = roll_back
        rig.controls.finalize(id_, "tester", now=True)
        rig.to_state(State.ROLLED_BACK)
        assert (rig.cloudstack.vms, rig.cloudstack.volumes) == ({}, {})
        assert vm.power is PowerState.ON
        assert rig.world.broken == []


def test_rollback_stops_the_target_before_the_source_starts() -> None:
    with new_rig(verify=False) as rig:
        rig.add()
        rig.submit_spec(spec_text(start_vm_after_import="true"))
        view = rig.finish()
        (target,) = rig.cloudstack.vms.values()
        states: list[str] = []
        rig.world.before.append(
            lambda name, args: states.append(target.state) if name == "vmware.power_on" else None
        )
        rig.controls.rollback(view.id, "tester")
        rig.to_state(State.ROLLED_BACK)
        assert states == ["Stopped"]
        # The images stay for somebody to look at.
        assert len(rig.storage.images) == 2


def test_an_undo_that_fails_half_way_continues_where_it_stopped() -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text())
        view = rig.finish()
        rig.world.faults["vmware.power_on"] = [failure("BUSY", retryable=True), failure("BROKEN")]
        rig.controls.rollback(view.id, "tester")
        assert rig.to_state(State.FAILED).error is not None
        assert rig.cloudstack.vms == {}
        rig.controls.retry(view.id, "tester")
        rig.to_state(State.ROLLED_BACK)
        assert vm.power is PowerState.ON


def test_a_machine_that_was_off_stays_off_after_a_rollback() -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        vm.power = PowerState.OFF
        rig.submit_spec(spec_text())
        view = rig.finish()
        rig.controls.rollback(view.id, "tester")
        rig.to_state(State.ROLLED_BACK)
        assert vm.power is PowerState.OFF


def test_cancel_during_the_conversion_stops_it_before_the_images_go() -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        rig.storage.conversion_polls = 1000
        id_ = rig.submit_spec(spec_text(run_virt_v2v="true"))
        rig.to_waiting_delta()
        rig.controls.finalize(id_, "tester", now=True)
        rig.to_stage(Stage.CONVERTING)

        def cancel() -> None:
            if rig.storage.conversions:
                rig.signals.on_wait = lambda: None
                rig.controls.cancel(id_, "tester")

        rig.signals.on_wait = cancel
        rig.to_state(State.CANCELLED)
        assert [c["state"] for c in rig.storage.conversions.values()] == ["cancelled"]
        _check_untouched(rig, vm)


def test_cancel_with_a_disk_not_yet_begun() -> None:
    with new_rig(memory_agents(pace=1)) as rig:
        vm = rig.add()
        id_ = rig.submit_spec(spec_text(parallel_disks=1))

        def cancel() -> None:
            if rig.storage.transfers:
                rig.signals.on_wait = lambda: None
                rig.controls.cancel(id_, "tester")

        rig.signals.on_wait = cancel
        rig.to_state(State.CANCELLED)
        assert len(rig.storage.transfers) == 1
        _check_untouched(rig, vm)


def test_cancel_of_a_migration_that_never_started() -> None:
    with new_rig() as rig:
        vm = rig.add()
        id_ = rig.submit_spec(spec_text(), start=False)
        rig.controls.cancel(id_, "tester")
        rig.to_state(State.CANCELLED)
        _check_untouched(rig, vm)


@pytest.mark.parametrize("stage", [s for s in Stage if Control.PAUSE in STAGE_TABLE[s].controls])
def test_pause_stops_the_migration_and_resume_continues_it(stage: Stage) -> None:
    with new_rig(verify=False) as rig:
        id_ = _course(rig, stage)
        (vm,) = rig.vcenter.vms.values()
        rig.controls.pause(id_, "tester")
        rig.controls.pause(id_, "tester")
        assert rig.to_state(State.PAUSED).stage is stage
        while rig.step():
            pass
        assert rig.view().state is State.PAUSED
        rig.controls.resume(id_, "tester")
        if stage is Stage.AWAITING_SHUTDOWN_ACTION:
            rig.controls.decide_shutdown(id_, "tester", "force")
            rig.to_state(State.DONE)
        elif stage is not Stage.DELTA:
            rig.finish()
        else:
            rig.controls.finalize(id_, "tester", now=False)
            rig.to_state(State.DONE)
        rig.check_done(vm)


def test_pause_in_the_middle_of_a_copy_keeps_what_was_copied() -> None:
    with new_rig(memory_agents(pace=2), verify=False) as rig:
        vm = rig.add()
        id_ = rig.submit_spec(spec_text())
        waits: list[float] = []

        def pause() -> None:
            waits.append(rig.view().overall_progress)
            if len(waits) in {4, 8}:
                rig.controls.pause(id_, "tester")

        rig.signals.on_wait = pause
        for _ in range(2):
            rig.to_state(State.PAUSED)
            assert all(t.state != "running" for t in rig.storage.transfers.values())
            assert not vm.snapshots, "a snapshot grows for as long as the pause lasts"
            rig.controls.resume(id_, "tester")
        rig.finish()
        rig.check_done(vm)
        # What changed since the snapshot that was removed is read again, nothing else is.
        read = sum(t.read for t in rig.storage.transfers.values() if t.order.mode.value == "full")
        assert read < 1.5 * sum(d.block_count for d in vm.disks)


def test_a_pause_requested_just_before_the_cutover_prevents_the_downtime() -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        id_ = rig.submit_spec(spec_text())
        rig.to_waiting_delta(passes=1)

        def pause(name: str, args: object) -> None:
            row = rig.row()
            if row.finalize_requested and len(row.passes) == 3 and not row.pause_requested:
                rig.controls.pause(id_, "tester")

        rig.controls.finalize(id_, "tester", now=False)
        rig.world.after.append(pause)
        rig.to_state(State.PAUSED)
        rig.world.after.remove(pause)
        assert (rig.view().downtime, vm.power) == (None, "on")
        rig.controls.resume(id_, "tester")
        rig.to_state(State.DONE)
        rig.check_done(vm)


def test_what_the_table_does_not_allow_is_refused_with_a_reason() -> None:
    for stage, row in STAGE_TABLE.items():
        for control in Control:
            if control in {Control.RETRY, Control.RESUME}:
                continue
            reason = allowed(control, stage, State.RUNNING)
            assert (reason == "") is (control in row.controls)
            if reason:
                assert stage in reason
                assert all(s in reason for s in Stage if control in STAGE_TABLE[s].controls)


@pytest.mark.parametrize("state", [State.CANCELLED, State.ROLLED_BACK, State.DONE])
def test_a_migration_that_has_ended_refuses_controls(state: State) -> None:
    refused = {c for c in Control if allowed(c, Stage.DONE, state)}
    own = {State.CANCELLED: {Control.CANCEL}}.get(state, {Control.ROLLBACK})
    assert refused == set(Control) - own


def test_a_refused_control_changes_nothing() -> None:
    with new_rig(verify=False) as rig:
        rig.add()
        rig.submit_spec(spec_text())
        view = rig.finish()
        before = rig.view().revision
        controls = rig.controls
        requests: list[Callable[[], None]] = [
            lambda: controls.finalize(view.id, "tester", now=True),
            lambda: controls.pause(view.id, "tester"),
            lambda: controls.cancel(view.id, "tester"),
            lambda: controls.retry(view.id, "tester"),
            lambda: controls.resume(view.id, "tester"),
            lambda: controls.decide_shutdown(view.id, "tester", "force"),
        ]
        for request in requests:
            with pytest.raises(ServiceError) as caught:
                request()
            assert caught.value.reason == "CONTROL_NOT_ALLOWED"
            assert view.vm_name in caught.value.message
        assert rig.view().revision == before


def test_controls_are_audited_with_who_asked() -> None:
    with new_rig(verify=False) as rig:
        rig.add()
        rig.submit_spec(spec_text())
        rig.to_waiting_delta()
        rig.controls.finalize(rig.view().id, "CN=alice", now=True)
        (event,) = rig.events("operator.finalize")
        assert (event.actor, event.vm_name) == ("CN=alice", "web-1")
