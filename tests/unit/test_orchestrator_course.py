"""A whole migration, tick by tick, on agents in memory; the rig checks the rules as it goes."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.orchestrator.ports.disk import Pool, TransferMode, WorkState
from services.orchestrator.stages import Stage, State
from services.orchestrator.work import passes
from tests.rigs.orchestrator.agents import failure, machine, memory_agents, reported
from tests.rigs.orchestrator.rig import Rig, new_rig, spec_text

_WHOLE: dict[str, Any] = {"run_virt_v2v": "true", "start_vm_after_import": "true"}


@pytest.mark.parametrize(("verify", "convert"), [(True, True), (False, False)])
def test_the_images_of_a_finished_migration_equal_the_source(verify: bool, convert: bool) -> None:
    with new_rig(verify=verify) as rig:
        # Each tick runs twice: the second time nothing may happen.
        rig.twice = True
        vm = rig.add()
        rig.submit_spec(spec_text(run_virt_v2v=str(convert).lower(), start_vm_after_import="true"))
        view = rig.finish()
        rig.check_done(vm)
        expected = set(Stage) - {Stage.AWAITING_SHUTDOWN_ACTION}
        expected -= set() if verify else {Stage.VERIFYING}
        expected -= set() if convert else {Stage.CONVERTING}
        assert [t.stage for t in view.stage_times] == [s for s in Stage if s in expected]
        (target,) = rig.cloudstack.vms.values()
        assert target.state == "Running"
        assert target.nics == {"net-1": "02:00", "net-2": "00:50:56:00:00:01"}


def test_the_target_stays_off_unless_its_start_is_asked_for() -> None:
    with new_rig() as rig:
        rig.add()
        rig.submit_spec(spec_text())
        rig.finish()
        assert [vm.state for vm in rig.cloudstack.vms.values()] == ["Stopped"]


def test_progress_never_falls_and_the_parts_of_the_downtime_make_the_whole() -> None:
    with new_rig() as rig:
        rig.add().on_shutdown = "slow"
        rig.submit_spec(spec_text(parallel_disks=1, **_WHOLE))
        view = rig.finish()
        shown = [v.overall_progress for v in rig.views]
        assert shown == sorted(shown)
        assert shown[-1] == 100.0
        assert len(set(shown)) > 15
        assert view.downtime is not None
        assert view.downtime.end_time is not None
        assert sum(view.downtime.part_seconds.values()) == pytest.approx(
            view.downtime.total_seconds, abs=0.01
        )
        # 15 seconds of settling are part of the final sync.
        assert view.downtime.part_seconds["final_sync"] > 15
        assert view.downtime.part_seconds["shutdown"] > 1


def test_deltas_read_only_what_changed() -> None:
    with new_rig() as rig:
        rig.add(machine(disks=(240,)))
        rig.submit_spec(spec_text())
        view = rig.to_waiting_delta(passes=3)
        base, *deltas = view.passes
        assert base.read_bytes == view.disks[0].capacity_bytes
        assert all(0 < d.read_bytes == d.changed_bytes < base.read_bytes / 4 for d in deltas)


def test_passes_follow_at_the_interval_of_the_spec() -> None:
    with new_rig() as rig:
        rig.add()
        rig.submit_spec(spec_text(delta_interval=120))
        first, second = rig.to_waiting_delta(passes=2).passes[1:]
        assert first.end_time is not None
        assert (second.start_time - first.end_time).total_seconds() == pytest.approx(120, abs=2)


def _modes(rig: Rig) -> dict[int, set[TransferMode]]:
    found: dict[int, set[TransferMode]] = {}
    for transfer in rig.storage.transfers.values():
        found.setdefault(transfer.order.pass_number, set()).add(transfer.order.mode)
    return found


@pytest.mark.parametrize("event", ["reset", "no_tracking"])
def test_tracking_that_cannot_be_trusted_leads_to_a_comparison(event: str) -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text())
        rig.to_waiting_delta(passes=1)
        if event == "reset":
            rig.vcenter.reset_tracking(vm.moref)
        else:
            vm.disks[0].tracking = vm.disks[1].tracking = ""
            vm.tracked = False
        rig.to_waiting_delta(passes=2)
        assert _modes(rig)[2] == {TransferMode.RESYNC}
        assert len(rig.events("cbt.reset")) == len(vm.disks)
        rig.finish()
        rig.check_done(vm)


def test_a_change_id_that_vcenter_refuses_leads_to_a_comparison_of_that_disk() -> None:

    with new_rig(verify=False) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text())
        rig.to_waiting_delta(passes=1)
        rig.world.faults["vmware.changed_areas"] = [failure("CBT_RESET")]
        rig.to_waiting_delta(passes=2)
        # The other disk's changed areas are reported as usual.
        assert _modes(rig)[2] == {TransferMode.RESYNC, TransferMode.RANGES}
        rig.finish()
        rig.check_done(vm)


def test_a_chunk_map_that_is_lost_leads_to_a_comparison_of_that_disk() -> None:
    with new_rig(memory_agents(pace=1), verify=False) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text())
        rig.to_waiting_delta(passes=1)
        lost: list[str] = []

        def lose() -> None:
            for transfer in rig.storage.transfers.values():
                if (
                    not lost
                    and transfer.state is WorkState.RUNNING
                    and transfer.order.pass_number == 2
                ):
                    transfer.state = WorkState.FAILED
                    transfer.failure = reported("CHUNK_MAP_UNUSABLE")
                    lost.append(transfer.order.transfer_id)

        rig.signals.on_wait = lose
        rig.to_waiting_delta(passes=2)
        # The failed one and its follower, and the other disk as usual.
        assert rig.storage.transfers[f"{lost[0]}.2"].order.mode is TransferMode.RESYNC
        assert _modes(rig)[2] == {TransferMode.RESYNC, TransferMode.RANGES}
        assert len(rig.events("map.lost")) == 1
        rig.finish()
        rig.check_done(vm)


@pytest.mark.parametrize("stage", [Stage.BASE_COPY, Stage.DELTA, Stage.FINAL_SYNC])
def test_a_pass_whose_snapshot_is_lost_continues_with_a_new_one(stage: Stage) -> None:
    with new_rig(memory_agents(pace=1), verify=False) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text())
        if stage is not Stage.BASE_COPY:
            rig.to_waiting_delta()
        lost: list[bool] = []

        def lose() -> None:
            moving = any(t.state == "running" for t in rig.storage.transfers.values())
            if not lost and vm.snapshots and moving and rig.view().stage is stage:
                lost.append(True)
                rig.vcenter.lose_snapshots(vm.moref)

        rig.signals.on_wait = lose
        rig.finish()
        assert lost
        assert len(rig.events("snapshot.lost")) == 1
        rig.check_done(vm)
        # What is compared costs reading all of it again.
        assert all(t.order.mode is not TransferMode.RESYNC for t in rig.storage.transfers.values())


def test_a_full_copy_that_loses_snapshots_copies_what_is_left_and_what_changed() -> None:
    with new_rig(memory_agents(pace=2), verify=False) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text(parallel_disks=1))
        lost: list[int] = []

        def lose() -> None:
            done = sum(t.read for t in rig.storage.transfers.values())
            if vm.snapshots and len(lost) < 3 and done >= 8 * (len(lost) + 1):
                lost.append(done)
                rig.vcenter.lose_snapshots(vm.moref)

        rig.signals.on_wait = lose
        rig.finish()
        assert len(lost) == len(rig.events("snapshot.lost")) == 3
        base = [t for t in rig.storage.transfers.values() if t.order.pass_number == 0]
        assert {t.order.mode for t in base} == {TransferMode.FULL}
        assert sum(bool(t.order.ranges_id) for t in base) >= 3
        # Three losses did not make it three copies.
        assert sum(t.read for t in base) < 2 * sum(d.block_count for d in vm.disks)
        rig.check_done(vm)
        assert {d.lost_change_id for d in rig.row().disks} == {""}


def test_a_full_copy_without_tracking_that_lost_its_snapshot_is_compared() -> None:
    with new_rig(memory_agents(pace=1), verify=False) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text())

        def lose() -> None:
            if vm.snapshots and not rig.events("snapshot.lost"):
                rig.vcenter.reset_tracking(vm.moref)
                rig.vcenter.lose_snapshots(vm.moref)

        rig.signals.on_wait = lose
        rig.finish()
        modes = [t.order.mode for t in rig.storage.transfers.values() if t.order.pass_number == 0]
        assert TransferMode.RESYNC in modes
        assert rig.events("cbt.reset")
        rig.check_done(vm)


def test_a_snapshot_lost_before_its_areas_were_read_is_replaced_too() -> None:
    with new_rig(verify=False) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text())
        rig.to_waiting_delta()

        def lose(name: str, args: object) -> None:
            if name == "vmware.changed_areas" and not rig.events("snapshot.lost"):
                rig.vcenter.lose_snapshots(vm.moref)

        rig.world.before.append(lose)
        rig.finish()
        assert len(rig.events("snapshot.lost")) == 1
        rig.check_done(vm)


def test_the_image_of_a_disk_that_grew_is_resized() -> None:
    with new_rig() as rig:
        vm = rig.add()
        rig.submit_spec(spec_text())
        rig.to_waiting_delta()
        disk = vm.disks[1]
        disk.block_count += 8
        disk.write(disk.block_count - 1, 4711)
        view = rig.finish()
        rig.check_done(vm)
        assert view.disks[1].capacity_bytes == disk.capacity_bytes
        (event,) = rig.events("disk.grown")
        assert "Hard disk 2 grew" in event.message
        assert rig.world.count("disk.resize_image") == 1


def test_a_disk_that_shrank_ends_the_migration_without_a_snapshot_left() -> None:
    with new_rig() as rig:
        vm = rig.add()
        rig.submit_spec(spec_text())
        rig.to_waiting_delta()
        vm.disks[1].block_count -= 1
        view = rig.to_state(State.FAILED)
        assert view.error is not None
        assert view.error.reason == "SPEC_MISMATCH"
        assert "Hard disk 2" in view.error.message
        assert vm.snapshots == {}
        # Once it is repaired, the same pass continues, and its snapshot is a debt again.
        vm.disks[1].block_count += 1
        rig.controls.retry(view.id, "tester")
        rig.finish()
        rig.check_done(vm)


def test_state_json_reports_what_the_api_reports() -> None:
    with new_rig() as rig:
        rig.add()
        rig.submit_spec(spec_text())
        view = rig.to_waiting_delta()
        directory = Path(view.runtime_dir)
        assert directory.name == "web-1_vm-1"
        state = json.loads((directory / "state.json").read_text())
        assert (state["stage"], state["status"]) == ("delta", "waiting")
        assert state["vm_name"] == "web-1"
        assert state["disk_progress"] == {"0": 100.0, "1": 100.0}
        assert {"next_stage", "finalize_requested", "overall_progress", "transfer_speed_mbps"} <= (
            set(state)
        )
        assert [debt["name"] for debt in state["debts"]] == [d.target_path for d in view.disks]
        assert state["debts"][0]["create_time"] == view.debts[0].create_time.isoformat()
        assert "delta_interval: 300" in (directory / "spec.yaml").read_text()


def test_state_json_is_whole_at_every_moment() -> None:
    with new_rig() as rig:
        rig.add()
        rig.submit_spec(spec_text())
        seen: list[int] = []

        def read(name: str, args: object) -> None:
            for path in rig.directory.glob("*_vm-1/state.json"):
                seen.append(json.loads(path.read_text())["revision"])

        rig.world.before.append(read)
        rig.to_waiting_delta()
        assert seen == sorted(seen)
        assert len(set(seen)) > 10


def test_old_passes_are_forgotten_and_still_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "PASSES_KEPT", 2)
    with new_rig(verify=False) as rig:
        vm = rig.add()
        rig.submit_spec(spec_text())
        view = rig.to_waiting_delta(passes=5)
        assert view.delta_passes == 5
        assert [p.number for p in view.passes] == [0, 4, 5]
        row = rig.row()
        assert [len(p.disks) for p in row.passes] == [0, 0, 2]
        assert {debt.kind for debt in row.debts} == {"image"}
        rig.finish()
        rig.check_done(vm)


def test_a_wrong_pool_can_be_corrected_in_the_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    with new_rig() as rig:
        rig.add()
        resolve = rig.cloudstack.resolve_pool

        def resolve_known(storage_id: str) -> Pool:
            if storage_id == "pool-9":
                raise failure("POOL_NOT_FOUND", message="no such pool")
            return resolve(storage_id)

        monkeypatch.setattr(rig.cloudstack, "resolve_pool", resolve_known)
        spec = spec_text()
        wrong = spec.replace("  cloudstack:\n", "  cloudstack:\n    storageid: pool-9\n")
        migration_id = rig.submit_spec(wrong)
        failed = rig.to_state(State.FAILED)
        assert failed.error is not None
        assert failed.error.reason == "POOL_NOT_FOUND"
        assert rig.submit_spec(spec, start=False) == migration_id
        rig.controls.retry(migration_id, "tester")
        rig.to_waiting_delta()
        assert {Path(path).parent.name for path in rig.storage.images} == {"pool-1"}
