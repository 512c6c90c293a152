"""One death at a call to an agent or a commit, each in a migration of its own."""

import pytest

from services.orchestrator.stages import State
from tests.rigs.orchestrator.agents import Crash
from tests.rigs.orchestrator.rig import Rig, new_rig, spec_text

# A migration has about 180 points. The tests take every fourth, in groups that a failure names;
# all of them take five minutes: make _GROUPS range(_STRIDE) after a change of the ticks.
_STRIDE = 12
_GROUPS = range(0, _STRIDE, 4)


def _migrate(rig: Rig, crash_at: int) -> None:
    rig.crash_at = crash_at
    vm = rig.add()
    id_ = rig.submit_spec(spec_text(run_virt_v2v="true", start_vm_after_import="true"))
    rig.to_waiting_delta()
    while not rig.view().finalize_requested:
        try:
            rig.controls.finalize(id_, "tester", now=False)
        except Crash:
            rig.restart()
    rig.to_state(State.DONE)
    rig.tidy()
    rig.check_done(vm)


@pytest.mark.parametrize("first", _GROUPS)
def test_death_at_any_point_costs_nothing(first: int) -> None:
    # The submission's own commits come first; a client whose submit died submits again.
    crash_at, more = 4 + first, True
    while more:
        with new_rig(unmount=True) as rig:
            _migrate(rig, crash_at)
            assert rig.crashes <= 1
            assert rig.storage.mounted == set()
            more = rig.crashes == 1
        crash_at += _STRIDE
