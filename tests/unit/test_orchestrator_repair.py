"""Retry after a verification that found a difference."""

import pytest

from services.orchestrator.ports.disk import TransferSnapshot, WorkState
from services.orchestrator.ports.vmware import PowerState
from services.orchestrator.stages import Stage, State
from tests.rigs.orchestrator.agents import memory_agents
from tests.rigs.orchestrator.rig import Rig, new_rig, spec_text
from tests.rigs.orchestrator.storage import MemoryImage
from tests.rigs.orchestrator.world import BLOCK


def _failed_verification(rig: Rig) -> MemoryImage:
    rig.submit_spec(spec_text())
    rig.to_waiting_delta()
    rig.controls.finalize(rig.view().id, "tester", now=True)
    rig.to_stage(Stage.VERIFYING)
    image = next(iter(rig.storage.images.values()))
    image.blocks[3] = 666
    rig.to_state(State.FAILED)
    assert image.blocks[3] == 666
    return image


def test_an_image_that_differs_is_repaired_by_retry() -> None:
    with new_rig() as rig:
        vm = rig.add()
        image = _failed_verification(rig)
        rig.controls.retry(rig.view().id, "tester")
        rig.to_state(State.DONE)
        assert image.blocks[3] != 666
        rig.check_done(vm)
        (event,) = rig.events("images.repaired")
        assert event.details == {"repaired_bytes": str(BLOCK)}
        assert event.message.startswith(f"{BLOCK} bytes differed")


def test_storage_that_does_not_keep_a_repair_stops_the_migration_again() -> None:
    with new_rig() as rig:
        rig.add()
        _failed_verification(rig)
        rig.storage.forgets = True
        for _ in range(2):
            rig.controls.retry(rig.view().id, "tester")
            view = rig.to_state(State.FAILED)
            assert view.error is not None
            assert (view.error.reason, rig.cloudstack.vms) == ("CONTENT_MISMATCH", {})
        assert rig.events("images.repaired") == []


def test_a_repair_is_stopped_by_rollback() -> None:
    with new_rig(memory_agents(pace=1)) as rig:
        vm = rig.add()
        _failed_verification(rig)
        rig.controls.retry(rig.view().id, "tester")

        def somebody_rolls_back() -> None:
            rig.signals.on_wait = lambda: None
            rig.controls.rollback(rig.view().id, "tester")

        rig.signals.on_wait = somebody_rolls_back
        rig.to_state(State.ROLLED_BACK)
        repairs = [t for t in rig.storage.transfers.values() if "-repair" in t.order.transfer_id]
        assert {t.state for t in repairs} == {WorkState.CANCELLED}
        assert vm.power is PowerState.ON


def test_a_source_started_behind_a_repair_stops_the_migration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with new_rig() as rig:
        vm = rig.add()
        _failed_verification(rig)
        rig.controls.retry(rig.view().id, "tester")

        get_transfer = rig.storage.get_transfer

        def started_at_the_end(transfer_id: str) -> TransferSnapshot:
            snapshot = get_transfer(transfer_id)
            transfers = rig.storage.transfers.values()
            states = [t.state for t in transfers if "-repair" in t.order.transfer_id]
            if states == [WorkState.SUCCEEDED] * len(rig.storage.images):
                vm.power = PowerState.ON
            return snapshot

        monkeypatch.setattr(rig.storage, "get_transfer", started_at_the_end)
        view = rig.to_state(State.FAILED)
        assert view.error is not None
        assert (view.stage, view.error.reason) == (Stage.VERIFYING, "SOURCE_POWERED_ON")
        assert rig.cloudstack.vms == {}


def test_a_source_that_was_started_and_is_off_again_is_synced_once_more() -> None:
    with new_rig() as rig:
        vm = rig.add()
        rig.submit_spec(spec_text())
        rig.to_waiting_delta()
        rig.controls.finalize(rig.view().id, "tester", now=True)
        rig.to_stage(Stage.VERIFYING)
        vm.power = PowerState.ON
        view = rig.to_state(State.FAILED)
        assert view.error is not None
        assert view.error.reason == "SOURCE_POWERED_ON"
        rig.vcenter.guests_write()
        vm.power = PowerState.OFF

        rig.controls.retry(view.id, "tester")
        rig.to_state(State.DONE)

        rig.check_done(vm)
        assert [each.kind for each in rig.view().passes].count("final") == 2
