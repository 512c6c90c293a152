"""The process dies after calls and commits; what takes over ends with identical disks."""

import pytest

from services.orchestrator.stages import Stage, State
from tests.rigs.orchestrator.agents import Crash, memory_agents
from tests.rigs.orchestrator.rig import Rig, new_rig, spec_text


def _migrate(rig: Rig) -> None:
    """Submit, and ask for cutover in the second wait between deltas, crash or not."""
    vm = rig.add()
    id_ = rig.submit_spec(spec_text(run_virt_v2v="true", start_vm_after_import="true"))
    rig.to_waiting_delta(passes=1)
    while not rig.view().finalize_requested:
        try:
            rig.controls.finalize(id_, "tester", now=False)
        except Crash:
            rig.restart()
    rig.to_state(State.DONE)
    rig.check_done(vm)
    assert rig.view().open_debts == 0


@pytest.mark.parametrize("every", [19, 29])
def test_a_process_that_dies_again_and_again_gets_there(every: int) -> None:
    with new_rig() as rig:
        rig.crash_at = rig.crash_every = every
        _migrate(rig)
        assert rig.crashes > 4


def test_an_undo_that_dies_again_and_again_leaves_nothing() -> None:
    with new_rig(memory_agents(pace=2), verify=False) as rig:
        vm = rig.add()
        id_ = rig.submit_spec(spec_text())
        rig.finish()
        rig.crash_at, rig.crash_every = rig.points + 3, 8
        try:
            rig.controls.rollback(id_, "tester")
        except Crash:
            rig.restart()
        rig.to_state(State.ROLLED_BACK)
        assert rig.crashes > 1
        assert (vm.power, rig.cloudstack.vms, rig.cloudstack.volumes) == ("on", {}, {})


def test_a_pause_that_dies_after_cancelling_the_transfers_goes_on() -> None:
    with new_rig(memory_agents(pace=2), verify=False) as rig:
        vm = rig.add()
        id_ = rig.submit_spec(spec_text())
        asked: list[bool] = []

        def pause() -> None:
            if rig.view().stage is Stage.BASE_COPY and not asked:
                asked.append(True)
                rig.controls.pause(id_, "tester")

        def die(name: str, args: object) -> None:
            if name == "disk.cancel_transfer" and rig.crashes == 0:
                rig.crashes += 1
                raise Crash

        rig.signals.on_wait = pause
        rig.world.after.append(die)
        rig.to_state(State.PAUSED)
        rig.controls.resume(id_, "tester")
        rig.finish()
        assert rig.crashes == 1
        rig.check_done(vm)
