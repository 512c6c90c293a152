"""When the cutover begins, how the source is shut down, and what happens if it is started."""

from datetime import timedelta

import pytest

from services.orchestrator.ports.vmware import PowerState
from services.orchestrator.stages import Stage, State
from tests.rigs.orchestrator.agents import memory_agents, reported
from tests.rigs.orchestrator.rig import Rig, new_rig, spec_text


def _kinds(rig: Rig) -> list[str]:
    return [p.kind for p in rig.view().passes]


def test_finalize_lets_one_delta_precede_the_final_pass() -> None:
    with new_rig(verify=False) as rig:
        rig.add()
        id_ = rig.submit_spec(spec_text())
        rig.to_waiting_delta(passes=1)
        asked = rig.clock.now
        rig.controls.finalize(id_, "tester", now=False)
        view = rig.to_state(State.DONE)
        assert _kinds(rig) == ["base", "delta", "delta", "final"]
        # The request is acted on at once, not when the interval has passed.
        assert view.end_time is not None
        assert view.end_time - asked < timedelta(seconds=60)


def test_finalize_now_goes_straight_to_the_final_pass() -> None:
    with new_rig(verify=False) as rig:
        rig.add()
        id_ = rig.submit_spec(spec_text())
        rig.to_waiting_delta(passes=1)
        rig.controls.finalize(id_, "tester", now=True)
        rig.to_state(State.DONE)
        assert _kinds(rig) == ["base", "delta", "final"]


def test_finalize_asked_for_during_the_full_copy_still_gets_its_delta() -> None:
    with new_rig(verify=False) as rig:
        rig.add()
        id_ = rig.submit_spec(spec_text())
        rig.controls.finalize(id_, "tester", now=False)
        rig.to_state(State.DONE)
        assert _kinds(rig) == ["base", "delta", "final"]


def test_finalize_at_is_kept_with_shorter_intervals_before_it() -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        at = rig.clock.now + timedelta(seconds=1200)
        rig.submit_spec(
            spec_text(finalize_at=at.isoformat(), finalize_window=300, finalize_delta_interval=100)
        )
        view = rig.to_state(State.DONE)
        rig.check_done(vm)
        assert view.downtime is not None
        assert 0 <= (view.downtime.start_time - at).total_seconds() < 30
        gaps = [
            (later.start_time - earlier.end_time).total_seconds()
            for earlier, later in zip(view.passes[:-2], view.passes[1:-1], strict=True)
            if earlier.end_time is not None
        ]
        assert max(gaps) > 250
        assert min(gaps[-2:]) < 110


def test_finalize_at_that_passed_during_the_full_copy_waits_for_one_delta() -> None:
    with new_rig(verify=False) as rig:
        rig.add()
        at = rig.clock.now + timedelta(seconds=1)
        rig.submit_spec(spec_text(finalize_at=at.isoformat()))
        rig.to_state(State.DONE)
        assert _kinds(rig) == ["base", "delta", "final"]


def test_the_guest_is_asked_to_shut_down_and_given_time_to_settle() -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        vm.on_shutdown = "slow"
        rig.submit_spec(spec_text(finalize_settle_seconds=40))
        view = rig.finish()
        assert rig.world.count("vmware.shutdown_guest") == 1
        assert rig.world.count("vmware.power_off") == 0
        row = rig.row()
        assert row.off_time is not None
        assert (view.passes[-1].start_time - row.off_time).total_seconds() >= 40


@pytest.mark.parametrize(
    ("guest", "seconds"), [("Microsoft Windows Server 2022", 30), ("Debian", 15)]
)
def test_windows_gets_longer_to_settle(guest: str, seconds: int) -> None:
    with new_rig(verify=False) as rig:
        rig.add().guest = guest
        rig.submit_spec(spec_text().replace("  finalize_settle_seconds: 15\n", ""))
        view = rig.finish()
        off = rig.row().off_time
        assert off is not None
        settled = (view.passes[-1].start_time - off).total_seconds()
        assert settled == pytest.approx(seconds, abs=2)


def test_force_powers_the_machine_off() -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text(shutdown_mode="force"))
        rig.finish()
        assert rig.world.count("vmware.shutdown_guest") == 0
        assert rig.world.count("vmware.power_off") == 1
        rig.check_done(vm)


def test_a_machine_that_is_off_needs_no_shutdown_and_no_settling() -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        vm.power = PowerState.OFF
        rig.submit_spec(spec_text())
        view = rig.finish()
        assert rig.world.count("vmware.shutdown_guest") == 0
        assert view.downtime is not None
        assert view.downtime.total_seconds < 10
        rig.check_done(vm)


def _to_decision(rig: Rig) -> str:
    id_ = rig.view().id
    rig.to_waiting_delta()
    rig.controls.finalize(id_, "tester", now=False)
    rig.run(lambda v: v.stage is Stage.AWAITING_SHUTDOWN_ACTION and v.state is State.WAITING)
    return id_


def test_without_tools_an_operator_decides_and_no_downtime_is_counted_before() -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        vm.tools = False
        rig.submit_spec(spec_text())
        id_ = _to_decision(rig)
        assert rig.view().downtime is None
        assert "v2c shutdown" in rig.view().activity
        rig.clock.advance(3600)
        rig.controls.decide_shutdown(id_, "tester", "force")
        view = rig.to_state(State.DONE)
        assert rig.world.count("vmware.power_off") == 1
        assert view.downtime is not None
        assert view.downtime.total_seconds < 120
        rig.check_done(vm)


def test_a_guest_that_ignores_its_shutdown_is_left_to_an_operator() -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        vm.on_shutdown = "ignore"
        rig.submit_spec(spec_text())
        id_ = _to_decision(rig)
        assert rig.events("shutdown.timeout")
        rig.controls.decide_shutdown(id_, "tester", "force")
        rig.to_state(State.DONE)
        rig.check_done(vm)


def test_manual_waits_until_somebody_has_shut_the_machine_down() -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text(shutdown_mode="manual"))
        id_ = _to_decision(rig)
        rig.controls.decide_shutdown(id_, "tester", "manual")
        for _ in range(10):
            rig.step()
        view = rig.view()
        assert (view.stage, view.state) == (Stage.AWAITING_SHUTDOWN_ACTION, State.WAITING)
        assert rig.world.count("vmware.shutdown_guest") == 0
        vm.power = PowerState.OFF
        rig.to_state(State.DONE)
        rig.check_done(vm)


def test_a_source_that_came_back_is_synced_again() -> None:
    with new_rig(memory_agents(pace=3), verify=False) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text())
        returned: list[bool] = []

        def somebody_starts_it() -> None:
            copying = any(t.state == "running" for t in rig.storage.transfers.values())
            if rig.view().stage is Stage.FINAL_SYNC and copying and not returned:
                returned.append(True)
                vm.power = PowerState.ON

        rig.to_waiting_delta()
        rig.signals.on_wait = somebody_starts_it
        rig.controls.finalize(rig.view().id, "tester", now=True)
        view = rig.to_state(State.FAILED)
        assert view.error is not None
        assert view.error.reason == "SOURCE_POWERED_ON"
        assert set(vm.snapshot_names) <= {debt.name for debt in view.debts}
        vm.disks[0].write(5, 4711)
        rig.controls.retry(view.id, "tester")
        rig.to_state(State.DONE)
        assert _kinds(rig).count("final") == 2
        rig.check_done(vm)


def test_a_source_that_runs_again_is_not_imported() -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text(start_vm_after_import="true"))
        rig.to_waiting_delta()
        rig.controls.finalize(rig.view().id, "tester", now=True)
        rig.to_stage(Stage.IMPORT_ROOT_DISK)
        vm.power = PowerState.ON
        view = rig.to_state(State.FAILED)
        assert view.error is not None
        assert view.error.reason == "SOURCE_POWERED_ON"
        assert rig.cloudstack.vms == {}
        rig.controls.rollback(view.id, "tester")
        rig.to_state(State.ROLLED_BACK)
        assert vm.power is PowerState.ON


def test_a_target_is_not_started_beside_its_source() -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text(start_vm_after_import="true"))
        rig.to_waiting_delta()
        rig.controls.finalize(rig.view().id, "tester", now=True)
        rig.to_stage(Stage.IMPORT_DATA_DISK)
        vm.power = PowerState.ON
        rig.to_state(State.FAILED)
        assert [t.state for t in rig.cloudstack.vms.values()] == ["Stopped"]


def test_verification_that_finds_a_difference_stops_the_migration() -> None:
    with new_rig() as rig:
        rig.add()
        rig.submit_spec(spec_text())
        rig.to_waiting_delta()
        rig.controls.finalize(rig.view().id, "tester", now=True)
        rig.to_stage(Stage.VERIFYING)
        image = next(iter(rig.storage.images.values()))
        image.blocks[3] = 666
        view = rig.to_state(State.FAILED)
        assert (view.stage, rig.cloudstack.vms) == (Stage.VERIFYING, {})
        assert view.error is not None
        assert view.error.reason == "CONTENT_MISMATCH"


def test_verification_opens_the_live_disks_and_reports_how_much_it_compared() -> None:
    with new_rig() as rig:
        rig.add()
        rig.submit_spec(spec_text())
        rig.finish()
        verified = [
            t.order for t in rig.storage.transfers.values() if "-verify" in t.order.transfer_id
        ]
        assert {order.snapshot_moref for order in verified} == {""}
        assert all(order.source_path for order in verified)
        (event,) = rig.events("images.verified")
        total = sum(order.capacity_bytes for order in verified)
        assert event.details == {"verified_bytes": str(total), "unverified_bytes": "0"}
        assert event.message.endswith("verified, 0 unverified")


def test_a_source_started_during_the_verification_is_named_as_the_cause() -> None:
    with new_rig(memory_agents(pace=3)) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text())
        rig.to_waiting_delta()
        rig.controls.finalize(rig.view().id, "tester", now=True)
        rig.to_stage(Stage.VERIFYING)

        def somebody_starts_it() -> None:
            vm.power = PowerState.ON

        rig.signals.on_wait = somebody_starts_it
        view = rig.to_state(State.FAILED)
        assert view.error is not None
        assert view.error.reason == "SOURCE_POWERED_ON"


def test_a_conversion_that_failed_is_repeated_by_retry() -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text(run_virt_v2v="true"))
        rig.storage.conversion_failure = reported("GUEST_UNSUPPORTED")
        rig.to_waiting_delta()
        rig.controls.finalize(rig.view().id, "tester", now=True)
        view = rig.to_state(State.FAILED)
        assert (view.stage, rig.cloudstack.vms) == (Stage.CONVERTING, {})
        rig.storage.conversion_failure = None
        rig.controls.retry(view.id, "tester")
        rig.to_state(State.DONE)
        rig.check_done(vm)
