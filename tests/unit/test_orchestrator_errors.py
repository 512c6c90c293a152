"""Errors of agents, and what a migration does about them."""

from services.orchestrator.ports.cloudstack import Job, JobState
from services.orchestrator.stages import Stage, State
from tests.rigs.orchestrator.agents import failure, reported
from tests.rigs.orchestrator.rig import new_rig, spec_text


def test_a_job_that_failed_is_submitted_again_under_another_id() -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text())
        rig.cloudstack.failures["import_volume"] = [
            Job("", JobState.FAILED, "", reported("CLOUDSTACK_RESTARTED", "gone", retryable=True))
        ]
        rig.finish()
        assert [j.kind for j in rig.cloudstack.jobs.values()].count("import_volume") == 2
        assert rig.events("stage.retry")
        rig.check_done(vm)


def test_calls_to_an_agent_that_is_unavailable_for_a_while_are_retried() -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        rig.world.faults["cloudstack.resolve_pool"] = [failure("AWAY", retryable=True)] * 4
        rig.submit_spec(spec_text())
        begin = rig.clock.now
        rig.to_waiting_delta()
        waits = [e.message for e in rig.events("stage.retry")]
        assert len(waits) == 4
        # 1 + 2 + 5 + 15 seconds.
        assert (rig.clock.now - begin).total_seconds() >= 23
        assert rig.view().error is None
        rig.finish()
        rig.check_done(vm)


def test_an_error_that_is_not_retryable_fails_the_migration_at_its_stage() -> None:
    with new_rig() as rig:
        rig.add()
        rig.world.faults["vmware.enable_tracking"] = [failure("CBT_UNSUPPORTED", message="no CBT")]
        rig.submit_spec(spec_text())
        view = rig.to_state(State.FAILED)
        assert view.stage is Stage.ENABLING_CBT
        assert view.error is not None
        assert (view.error.reason, view.error.message) == ("CBT_UNSUPPORTED", "no CBT")
        assert rig.queue == []


def test_after_the_last_retry_the_migration_fails() -> None:
    with new_rig() as rig:
        rig.add()
        rig.world.faults["vmware.check_vm"] = [failure("AWAY", retryable=True)] * 11
        rig.submit_spec(spec_text())
        view = rig.to_state(State.FAILED)
        assert len(rig.events("stage.retry")) == 9
        rig.controls.retry(view.id, "tester")
        rig.to_waiting_delta()


def test_a_wrong_address_is_reported_within_seconds() -> None:
    with new_rig() as rig:
        rig.add()
        rig.world.faults["vmware.thumbprint"] = [failure("AWAY", retryable=True)] * 11
        rig.submit_spec(spec_text())
        begin = rig.clock.now
        assert rig.to_state(State.FAILED).stage is Stage.CONNECTING_VCENTER
        assert (rig.clock.now - begin).total_seconds() < 15


def test_a_failed_pass_leaves_no_snapshot() -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text())
        rig.to_stage(Stage.BASE_COPY)
        assert vm.snapshots
        rig.world.faults["disk.start_transfer"] = [failure("TARGET_FULL")]
        view = rig.to_state(State.FAILED)
        assert not vm.snapshots
        rig.controls.retry(view.id, "tester")
        rig.finish()
        rig.check_done(vm)


def test_errors_days_apart_are_not_added_up() -> None:
    with new_rig(verify=False) as rig:
        rig.add()
        rig.submit_spec(spec_text())
        for count in range(1, 13):
            rig.to_waiting_delta(passes=count)
            rig.world.faults["vmware.create_snapshot"] = [failure("BUSY", retryable=True)]
        assert rig.view().state is State.WAITING


def test_a_bug_fails_the_migration_and_reports_only_a_log_id() -> None:
    with new_rig() as rig:
        rig.add()
        rig.world.faults["vmware.get_vm"] = [RuntimeError("password is hunter2")]
        rig.submit_spec(spec_text())
        view = rig.to_state(State.FAILED)
        assert view.stage is Stage.FINDING_VM
        assert view.error is not None
        assert view.error.reason == "INTERNAL"
        assert view.error.metadata["log_id"] in view.error.message
        shown = repr(view) + repr(rig.store.events(limit=1000))
        assert "hunter2" not in shown


def test_a_disk_no_snapshot_covers_is_refused_by_name() -> None:
    with new_rig() as rig:
        vm = rig.add()
        vm.disks[1].unsupported_reason = "independent_persistent"
        rig.submit_spec(spec_text())
        view = rig.to_state(State.FAILED)
        assert view.stage is Stage.DISCOVERING_VMWARE_DISKS
        assert view.error is not None
        assert "Hard disk 2" in view.error.message
        assert rig.storage.images == {}
