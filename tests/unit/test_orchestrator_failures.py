"""Agents' failures reach operators with all fields, and reasons are those of the agents."""

import importlib
import json
from pathlib import Path

from services.kit.failure import Failure, error_classes
from services.orchestrator import translate
from services.orchestrator.database.views import MigrationView
from services.orchestrator.ports.cloudstack import Job, JobState
from services.orchestrator.ports.disk import WorkState
from services.orchestrator.ports.reasons import Reason
from services.orchestrator.stages import Stage, State
from tests.rigs.orchestrator.agents import memory_agents, reported
from tests.rigs.orchestrator.rig import Rig, new_rig, spec_text

_AGENTS = ("vmware_agent", "disk_agent", "cloudstack_agent")


def _stop_a_transfer(rig: Rig, failure: Failure | None, state: WorkState) -> None:
    """The first transfer that runs ends in `state`."""
    stopped: list[str] = []

    def stop() -> None:
        for transfer in rig.storage.transfers.values():
            if not stopped and transfer.state is WorkState.RUNNING:
                transfer.state, transfer.failure = state, failure
                stopped.append(transfer.order.transfer_id)

    rig.signals.on_wait = stop


def _state_json(view: MigrationView) -> dict[str, object]:
    content = json.loads((Path(view.runtime_dir) / "state.json").read_text())
    error = content["error"]
    assert isinstance(error, dict)
    return error


def test_the_bytes_that_a_full_pool_lacks_reach_state_json_and_clients() -> None:
    with new_rig(memory_agents(pace=1)) as rig:
        rig.add()
        full = reported("TARGET_FULL", "the pool is full", free_bytes="512", needed_bytes="4096")
        _stop_a_transfer(rig, full, WorkState.FAILED)
        rig.submit_spec(spec_text())
        view = rig.to_state(State.FAILED)
        assert view.error is not None
        shown = {
            "free_bytes": "512",
            "needed_bytes": "4096",
            "transfer_id": view.error.metadata["transfer_id"],
        }
        assert view.error.metadata == shown
        message = translate.migration_message(view)
        assert (message.error.reason, dict(message.error.metadata)) == ("TARGET_FULL", shown)
        in_file = _state_json(view)
        assert (in_file["reason"], in_file["metadata"]) == ("TARGET_FULL", shown)
        assert in_file["message"] == "the pool is full"
        assert set(in_file) >= {"reason", "message", "hint", "retryable", "metadata", "time"}


def test_a_transfer_that_somebody_cancelled_fails_the_migration_by_name() -> None:
    with new_rig(memory_agents(pace=1)) as rig:
        rig.add()
        _stop_a_transfer(rig, None, WorkState.CANCELLED)
        rig.submit_spec(spec_text())
        error = rig.to_state(State.FAILED).error
        assert error is not None
        assert (error.reason, error.retryable) == ("TRANSFER_CANCELLED", False)
        assert error.hint
        assert error.message == f"transfer {error.metadata['transfer_id']} was cancelled"


def test_what_a_conversion_and_a_job_report_is_kept_with_the_job_and_the_log() -> None:
    with new_rig(verify=False) as rig:
        rig.add()
        rig.submit_spec(spec_text(run_virt_v2v="true"))
        rig.storage.conversion_failure = reported("GUEST_UNSUPPORTED", detail="btrfs")
        rig.to_waiting_delta()
        rig.controls.finalize(rig.view().id, "tester", now=True)
        view = rig.to_state(State.FAILED)
        assert view.error is not None
        assert (view.stage, view.error.reason) == (Stage.CONVERTING, "GUEST_UNSUPPORTED")
        assert view.error.metadata == {"detail": "btrfs", "log_path": "/log/virt-v2v.log"}
        rig.storage.conversion_failure = None
        why = reported("CLOUDSTACK_ERROR", "no", errorcode="530")
        rig.cloudstack.failures["import_vm"] = [Job("", JobState.FAILED, failure=why)]
        rig.controls.retry(view.id, "tester")
        error = rig.to_state(State.FAILED).error
        assert error is not None
        assert error.metadata == {
            "errorcode": "530",
            "purpose": "import_root",
            "job_id": next(iter(rig.cloudstack.jobs)),
        }


def test_a_job_that_failed_without_a_reason_has_one() -> None:
    with new_rig(verify=False) as rig:
        rig.add()
        rig.submit_spec(spec_text())
        rig.cloudstack.failures["import_vm"] = [Job("", JobState.FAILED)]
        rig.to_waiting_delta()
        rig.controls.finalize(rig.view().id, "tester", now=True)
        error = rig.to_state(State.FAILED).error
        assert error is not None
        assert (error.reason, bool(error.hint)) == ("CLOUDSTACK_JOB_FAILED", True)


def test_an_error_that_an_older_version_wrote_is_still_shown() -> None:
    with new_rig() as rig:
        id_ = rig.submit_spec(spec_text(), start=False)
        with rig.store.change(id_) as (_, row):
            row.error = {
                "reason": "TARGET_FULL",
                "message": "full",
                "hint": "make room",
                "retryable": False,
                "metadata": {},
                "time": "2031-05-04T12:00:00+00:00",
            }
        view = rig.view()
        assert view.error is not None
        assert (view.error.reason, view.error.hint) == ("TARGET_FULL", "make room")
        assert view.error_time == rig.clock.now.replace(microsecond=0)


def test_every_reason_the_orchestrator_compares_is_declared_by_an_agent() -> None:
    declared: set[str] = set()
    for agent in _AGENTS:
        root = Path(importlib.import_module(f"services.{agent}").__file__ or "").parent
        for path in sorted(root.rglob("*.py")):
            if "ServiceError" in path.read_text() and path.name != "__main__.py":
                parts = path.relative_to(root.parents[1]).with_suffix("").parts
                importlib.import_module(".".join(parts))
    for kind in error_classes():
        if kind.__module__.startswith(tuple(f"services.{agent}" for agent in _AGENTS)):
            declared.add(kind.reason)
    assert {reason.value for reason in Reason} <= declared


def test_the_orchestrator_compares_no_reason_with_a_text() -> None:
    root = Path(translate.__file__).parent
    texts = {path: path.read_text() for path in root.rglob("*.py")}
    assert [p.name for p, text in texts.items() if 'reason == "' in text] == []
    assert [p.name for p, text in texts.items() if 'reason != "' in text] == []
