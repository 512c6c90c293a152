"""What an operator asks of a running migration, by API and by marker files."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.rigs.stack.checks import (
    assert_identical,
    assert_migrated,
    cloudstack_rows,
    data_path_of,
    eventually,
    vcenter_vm,
)
from tests.rigs.stack.client import Client, image_paths, quick
from tests.rigs.stack.faults import in_mid_copy, slow_reads
from tests.rigs.stack.site import Site
from tests.rigs.stack.vcenter import power_off
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

HONOURED_SECONDS = 2.0
IN_TERMINAL_SECONDS = 20.0


@pytest.fixture(scope="module", autouse=True)
def under_way(site: Site, client: Client) -> Iterator[None]:
    """All machines of this module are copied at the same time; each test takes one over."""
    with ExitStack() as faults:
        faults.enter_context(slow_reads(site.lab, "cancel base", 1000))
        client.submit(
            quick("cancel base", readers=1),
            _with_networks(site, quick("rollback", start_vm_after_import=True)),
            quick("manual", shutdown_mode="manual"),
            quick("pause", delta_interval=3),
            *(
                quick(name, delta_interval=300)
                for name in ("cancel delta", "marked", "marked now", "stubborn")
            ),
        )
        for name in ("rollback", "manual", "stubborn"):
            client.finalize(name)
        yield


def _with_networks(site: Site, spec: dict[str, Any]) -> dict[str, Any]:
    networks = {"4000": "networkid", "4001": "networkid2"}
    mappings = {key: {"networkid": site.ids[role]} for key, role in networks.items()}
    return {**spec, "target": {"cloudstack": {"nic_mappings": mappings}}}


def test_cancel_in_the_base_copy_takes_everything_back(site: Site, client: Client) -> None:
    copying = client.wait("cancel base", in_mid_copy)
    assert all(path.exists() for path in image_paths(copying))
    assert vcenter_vm(site.lab, "cancel base")["snapshots"]

    client.cancel("cancel base")
    ended = client.wait_state("cancel base", pb.STATE_CANCELLED, seconds=IN_TERMINAL_SECONDS)

    assert ended.open_debts == 0
    assert vcenter_vm(site.lab, "cancel base")["snapshots"] == []
    assert vcenter_vm(site.lab, "cancel base")["power"] == "poweredOn"
    assert not any(path.exists() for path in image_paths(copying))
    eventually(lambda: [line for line in data_path_of(site).values() if "cancel-base" in line])


def test_cancel_between_passes_takes_everything_back(site: Site, client: Client) -> None:
    waiting = client.wait("cancel delta", _waits_for_a_pass)

    client.cancel("cancel delta")
    ended = client.wait_state("cancel delta", pb.STATE_CANCELLED, seconds=IN_TERMINAL_SECONDS)

    assert ended.open_debts == 0
    assert vcenter_vm(site.lab, "cancel delta")["snapshots"] == []
    assert not any(path.exists() for path in image_paths(waiting))


def test_a_cancelled_machine_can_be_migrated_anew(site: Site, client: Client) -> None:
    again = client.start("cancel delta")
    client.finalize("cancel delta")
    done = client.wait_done("cancel delta")

    assert done.id == again.id
    assert_migrated(site, done)


def test_rollback_lets_go_of_the_target_and_starts_the_source(site: Site, client: Client) -> None:
    done = client.wait_done("rollback")
    assert_migrated(site, done)
    machines = {row["id"]: row for row in cloudstack_rows(site.lab, "virtualmachine")}
    assert machines[done.target_vm_id]["state"] == "Running"

    client.rollback("rollback")
    ended = client.wait("rollback", lambda now: now.state == pb.STATE_ROLLED_BACK)

    assert vcenter_vm(site.lab, "rollback")["power"] == "poweredOn"
    left = {row["id"] for row in cloudstack_rows(site.lab, "virtualmachine")}
    assert done.target_vm_id not in left
    assert all(path.exists() for path in image_paths(done))
    assert ended.open_debts == 0


def test_a_paused_migration_rests_until_it_is_resumed(site: Site, client: Client) -> None:
    client.wait("pause", _waits_for_a_pass)
    client.pause("pause")
    paused = client.wait_state("pause", pb.STATE_PAUSED, seconds=IN_TERMINAL_SECONDS)
    assert vcenter_vm(site.lab, "pause")["snapshots"] == []
    time.sleep(3.5)  # A pass would have been due.
    assert client.get("pause").delta_passes == paused.delta_passes

    client.resume("pause")
    client.wait_passes("pause", paused.delta_passes + 1)
    client.finalize("pause")
    assert_migrated(site, client.wait_done("pause"))


class StateReader(threading.Thread):
    """Reads state.json again and again, as scripts do."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.stages: list[str] = []
        self.failure: Exception | None = None
        self._path = path
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.002):
            try:
                stage = json.loads(self._path.read_text())["stage"]
            except (ValueError, OSError, KeyError) as exc:
                self.failure = exc
                return
            if stage not in self.stages[-1:]:
                self.stages.append(stage)

    def stop(self) -> None:
        self._ended.set()
        self.join()


def test_marker_finalize_is_honoured_and_state_json_always_whole(
    site: Site, client: Client
) -> None:
    waiting = client.wait("marked", _waits_for_a_pass)
    directory = Path(waiting.runtime_dir)
    assert directory.name == f"marked_{waiting.vm_moref}"
    assert directory.parent == site.control_dir
    reader = StateReader(directory / "state.json")
    reader.start()

    (directory / "FINALIZE").touch()
    client.wait("marked", lambda now: now.finalize_requested, seconds=HONOURED_SECONDS)
    done = client.wait_done("marked")
    eventually(lambda: reader.stages[-1] != "done", seconds=HONOURED_SECONDS)
    reader.stop()

    assert reader.failure is None
    assert reader.stages[0] == "delta"
    assert {"final_sync", "import_root_disk"} <= set(reader.stages)
    # One more pass keeps the final one, which is downtime, small.
    assert [p.kind for p in done.passes] == ["base", "delta", "final"]
    assert not (directory / "FINALIZE").exists()
    assert json.loads((directory / "state.json").read_text())["status"] == "done"
    assert_migrated(site, done)


def test_marker_finalize_now_skips_the_pass_that_is_due(site: Site, client: Client) -> None:
    waiting = client.wait("marked now", _waits_for_a_pass)

    (Path(waiting.runtime_dir) / "FINALIZE_NOW").touch()
    client.wait("marked now", lambda now: now.stage != pb.STAGE_DELTA, seconds=HONOURED_SECONDS)
    done = client.wait_done("marked now")

    assert [p.kind for p in done.passes] == ["base", "final"]
    assert_migrated(site, done)


def test_marker_shutdown_force_powers_a_machine_without_tools_off(
    site: Site, client: Client
) -> None:
    waiting = client.wait("stubborn", _waits_for_the_shutdown)
    assert "v2c shutdown" in waiting.activity
    assert vcenter_vm(site.lab, "stubborn")["power"] == "poweredOn"

    (Path(waiting.runtime_dir) / "SHUTDOWN_FORCE").touch()
    client.wait(
        "stubborn",
        lambda now: now.stage != pb.STAGE_AWAITING_SHUTDOWN_ACTION,
        seconds=HONOURED_SECONDS,
    )
    assert_migrated(site, client.wait_done("stubborn"))


def test_a_machine_shut_down_by_somebody_continues_by_itself(site: Site, client: Client) -> None:
    client.wait("manual", _waits_for_the_shutdown)

    power_off(site.lab, "manual")
    done = client.wait_done("manual")

    assert_identical(site.lab, done)
    assert vcenter_vm(site.lab, "manual")["snapshots"] == []


def _waits_for_a_pass(now: pb.Migration) -> bool:
    return now.stage == pb.STAGE_DELTA and now.state == pb.STATE_WAITING


def _waits_for_the_shutdown(now: pb.Migration) -> bool:
    return (
        now.stage == pb.STAGE_AWAITING_SHUTDOWN_ACTION
        and now.state == pb.STATE_WAITING
        and bool(now.activity)
    )
