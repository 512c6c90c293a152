"""A whole migration, tick by tick, on agents in memory."""

import pytest

from services.orchestrator.stages import Stage
from tests.orchestrator_rig import Rig, spec_text

pytest_plugins = ()


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("convert", [True, False])
def test_a_migration_ends_with_what_the_source_held(
    tmp_path: object, verify: bool, convert: bool
) -> None:
    rig = Rig(tmp_path, verify=verify)  # type: ignore[arg-type]
    rig.twice = True
    vm = rig.add()
    rig.submit_spec(spec_text(run_virt_v2v=str(convert).lower(), start_vm_after_import="true"))
    view = rig.finish()
    rig.check_done(vm)
    entered = [t.stage for t in view.stage_times]
    assert (Stage.VERIFYING in entered) is verify
    assert (Stage.CONVERTING in entered) is convert
    rig.close()
