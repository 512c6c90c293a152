"""The v2c command as a user calls it, against an orchestrator over gRPC."""

import asyncio
import json
import re
import signal
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from services.config.document import Document, parse_document
from services.kit.server import serving
from tests.rigs.agents.cli import Cli
from tests.rigs.fakes.cli_orchestrator import FakeOrchestrator, register
from v2c.orchestrator.v1 import orchestrator_pb2 as pb


@pytest.fixture
def v2c(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    cli = Cli(tmp_path, capsys)
    cli.config()
    cli.spec("web.yaml", "vms:\n- vm: {name: web01}\n- vm: {name: app server 02}\n")
    return cli


@pytest.fixture
async def fake(v2c: Cli) -> AsyncIterator[FakeOrchestrator]:
    orchestrator = FakeOrchestrator()
    address = f"unix:{v2c.folder}/c/run/orchestrator.sock"
    async with serving(
        "orchestrator", address, None, lambda server: register(server, orchestrator)
    ):
        yield orchestrator


async def test_run_is_0_when_every_vm_is_done(v2c: Cli, fake: FakeOrchestrator) -> None:
    result = await v2c.run("run", "--spec", "web.yaml", "--parallel-vms", "2")

    assert result.status == 0
    assert "web01: base_copy" in result.out
    assert "app server 02: done" in result.out
    assert fake.parallel_vms == 2


async def test_run_is_1_when_one_fails_and_shows_why(v2c: Cli, fake: FakeOrchestrator) -> None:
    error = pb.Error(message="the pool is full", hint="free 2 GB")
    fake.script = [{"stage": pb.STAGE_BASE_COPY, "state": pb.STATE_FAILED, "error": error}]

    result = await v2c.run("run", "--spec", "web.yaml")

    assert result.status == 1
    assert "web01: failed in base_copy: the pool is full. Free 2 GB" in result.out


async def test_run_continues_what_failed_or_was_paused(v2c: Cli, fake: FakeOrchestrator) -> None:
    fake.add("web01", state=pb.STATE_FAILED)
    fake.add("app server 02", state=pb.STATE_PAUSED)

    result = await v2c.run("run", "--spec", "web.yaml")

    assert result.status == 0
    assert fake.calls == ["retry web01", "resume app server 02", "start"]


async def test_run_parses_a_spec_once_and_submits_what_it_checked(
    v2c: Cli, fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []

    def recorded(text: str, source: str) -> Document:
        # The fake, in the main thread, parses what it is sent, too.
        if threading.current_thread() is not threading.main_thread():
            parsed.append(source)
            if source == "web.yaml":
                v2c.spec("web.yaml", "vm: {name: changed-meanwhile}\n")
        return parse_document(text, source)

    monkeypatch.setattr("services.config.loader.parse_document", recorded)
    # Signals are the main thread's.
    monkeypatch.setattr("cli.commands.run.interruptible", lambda work, _: work)

    result = await v2c("run", "--spec", "web.yaml")

    assert result.status == 0, result.err
    assert parsed == ["config.yaml", "web.yaml"]
    assert fake.specs == ["vms:\n- vm: {name: web01}\n- vm: {name: app server 02}\n"]


async def test_run_json_is_lines_of_json(v2c: Cli, fake: FakeOrchestrator) -> None:
    result = await v2c.run("run", "--spec", "web.yaml", "--json")

    lines = [json.loads(line) for line in result.out.splitlines()]
    assert {line["type"] for line in lines} == {"migration", "end"}
    assert lines[-1]["ok"] is True


async def test_ctrl_c_leaves_the_migrations_to_the_server(v2c: Cli, fake: FakeOrchestrator) -> None:
    fake.script = fake.script[:1]
    process = await v2c.start("run", "--spec", "web.yaml")
    assert process.stdout is not None
    await process.stdout.readuntil(b"base_copy")

    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 20)

    assert process.returncode == 130
    assert b"the migrations continue at the server" in out
    assert b"Traceback" not in err


async def test_a_typo_in_a_spec_is_reported_before_anything_starts(v2c: Cli) -> None:
    v2c.spec("typo.yaml", "vm: {name: a}\nmigration:\n  delta_intervall: 5\n")

    result = await v2c.run("run", "--spec", "typo.yaml")

    assert result.status == 2
    assert result.err == (
        "typo.yaml:3:3: migration.delta_intervall: is not a known key. "
        "Did you mean delta_interval?\n"
    )
    assert not (v2c.folder / "c").exists()


async def test_a_missing_vddk_names_the_field(v2c: Cli) -> None:
    result = await v2c.run("run", "--spec", "web.yaml")

    assert result.status == 1
    assert "migration.vddk_path" in result.err
    assert result.err.count("\n") == 1
    assert not (v2c.folder / "c").exists()


async def test_missing_ids_name_both_places(v2c: Cli) -> None:
    v2c.config(cloudstack_defaults={})

    result = await v2c.run("run", "--spec", "web.yaml")

    assert result.status == 2
    assert "cloudstack_defaults.zoneid in config.yaml" in result.err


async def test_status_as_table_and_as_json(v2c: Cli, fake: FakeOrchestrator) -> None:
    fake.add("web01", state=pb.STATE_RUNNING, vm_moref="vm-7", activity="copying")

    table = await v2c("status", "--spec", "web.yaml")
    rows = json.loads((await v2c("status", "--spec", "web.yaml", "--json")).out)

    assert "vm-7" in table.out
    assert "never started" in table.out
    assert [row["vm_name"] for row in rows] == ["web01", "app server 02"]
    assert (rows[0]["stage"], rows[0]["state"]) == ("init", "running")


async def test_status_without_a_spec_is_of_all(v2c: Cli, fake: FakeOrchestrator) -> None:
    fake.add("web01", state=pb.STATE_RUNNING, vm_moref="vm-7")
    fake.add("elsewhere", state=pb.STATE_DONE)

    every = json.loads((await v2c("status", "--json")).out)
    one = json.loads((await v2c("status", "--vm", "vm-7", "--json")).out)
    none = await v2c("status", "--vm", "nobody")

    assert [row["vm_name"] for row in every] == ["web01", "elsewhere"]
    assert [row["vm_name"] for row in one] == ["web01"]
    assert "there is no migration of nobody" in none.err


async def test_status_without_spec_or_server_is_of_all_that_was_written(v2c: Cli) -> None:
    folder = v2c.folder / "c" / "web01_vm-7"
    folder.mkdir(parents=True)
    state = {"vm_name": "web01", "vm_moref": "vm-7", "stage": "delta", "status": "waiting"}
    (folder / "state.json").write_text(json.dumps(state))

    assert re.search(r"^web01 +vm-7 +delta +waiting", (await v2c("status")).out, re.MULTILINE)


async def test_status_lists_what_is_still_to_be_undone(v2c: Cli, fake: FakeOrchestrator) -> None:
    made = Timestamp()
    made.FromDatetime(datetime.now(UTC) - timedelta(hours=3, minutes=5))
    debt = pb.Debt(kind="snapshot", name="v2c-1-p4", create_time=made)
    fake.add("web01", state=pb.STATE_RUNNING, open_debts=1, debts=[debt])

    text = (await v2c("status", "--spec", "web.yaml")).out
    rows = json.loads((await v2c("status", "--spec", "web.yaml", "--json")).out)

    assert re.search(r"^web01 +snapshot +3:05:\d\d +v2c-1-p4$", text, re.MULTILINE)
    assert rows[0]["debts"] == [
        {
            "kind": "snapshot",
            "name": "v2c-1-p4",
            "create_time": made.ToJsonString(),
            "attempts": 0,
            "last_error": "",
        }
    ]


async def test_status_shows_why_something_could_not_be_undone(
    v2c: Cli, fake: FakeOrchestrator
) -> None:
    made = Timestamp()
    made.FromDatetime(datetime.now(UTC) - timedelta(hours=3, minutes=5))
    debts = [
        pb.Debt(kind="image", name="/pool/a.qcow2", create_time=made),
        pb.Debt(
            kind="snapshot",
            name="v2c-1-p4",
            create_time=made,
            attempts=12,
            last_error="vCenter: another task is in progress",
        ),
    ]
    fake.add("web01", state=pb.STATE_FAILED, open_debts=2, debts=debts)

    text = (await v2c("status", "--spec", "web.yaml")).out
    rows = json.loads((await v2c("status", "--spec", "web.yaml", "--json")).out)

    assert re.search(r"^web01 +snapshot .* 12 +vCenter: another task", text, re.MULTILINE)
    assert re.search(r"^web01 +image .*/pool/a.qcow2 +0 *$", text, re.MULTILINE)
    assert rows[0]["debts"][1]["attempts"] == 12


async def test_status_without_a_debt_is_one_table(v2c: Cli, fake: FakeOrchestrator) -> None:
    fake.add("web01", state=pb.STATE_DONE)

    lines = (await v2c("status", "--spec", "web.yaml")).out.splitlines()

    assert [line.split()[0] for line in lines] == ["VM", "web01", "app"]


def left_behind(v2c: Cli, **state: Any) -> None:
    """The folder of a machine's migration, as the last orchestrator wrote it."""
    folder = v2c.folder / "c" / "web01_vm-7"
    folder.mkdir(parents=True)
    content = {"vm_name": "web01", "vm_moref": "vm-7", **state}
    (folder / "state.json").write_text(json.dumps(content))


async def test_status_without_a_server_reads_what_was_written(v2c: Cli) -> None:
    debt = {"kind": "image", "name": "/pool/a.qcow2", "create_time": "2026-03-01T10:00:00+00:00"}
    left_behind(v2c, stage="delta", status="waiting", debts=[debt])

    result = await v2c("status", "--spec", "web.yaml", "--vm", "web01")

    assert result.status == 0
    assert "delta" in result.out
    assert "as last written" in result.out
    assert re.search(r"^web01 +image .* /pool/a.qcow2$", result.out, re.MULTILINE)


async def test_without_a_server_a_failure_still_has_its_reason(v2c: Cli) -> None:
    error = {"message": "the pool is full.", "reason": "TARGET_FULL"}
    left_behind(v2c, stage="base_copy", status="failed", error=error)

    result = await v2c("status")

    assert "as last written: the pool is full; no orchestrator answers, v2c run" in result.out


async def test_the_values_of_an_error_are_shown(v2c: Cli, fake: FakeOrchestrator) -> None:
    values = {"free_bytes": "1200000000", "needed_bytes": "5000000000", "errno": "ENOSPC"}
    error = pb.Error(
        reason="POOL_FULL", message="the pool is too full", hint="free some", metadata=values
    )
    fake.add("web01", stage=pb.STAGE_BASE_COPY, state=pb.STATE_FAILED, error=error)

    (row,) = json.loads((await v2c("status", "--json")).out)
    shown = await v2c("status")

    assert row["error"]["metadata"] == values
    assert row["error"]["reason"] == "POOL_FULL"
    assert "the pool is too full (errno ENOSPC, free 1.2 GB, needed 5.0 GB). Free some" in shown.out


async def test_without_a_server_the_values_of_an_error_are_shown(v2c: Cli) -> None:
    error = {"message": "the pool is too full", "metadata": {"free_bytes": "1200000000"}}
    left_behind(v2c, stage="base_copy", status="failed", error=error)

    (row,) = json.loads((await v2c("status", "--json")).out)

    assert row["error"] == error
    assert "the pool is too full (free 1.2 GB); no orchestrator" in (await v2c("status")).out


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (["finalize", "--spec", "web.yaml", "--vm", "web01"], "finalize web01"),
        (["finalize", "--vm", "web01", "--now"], "finalize now web01"),
        (["finalize", "--vm", "web01", "--vm-id", "vm-7"], "finalize web01"),
        (["shutdown", "--vm", "web01", "--action", "force"], "SHUTDOWN_ACTION_FORCE web01"),
        (["pause", "--vm", "web01"], "pause web01"),
        (["resume", "--vm", "web01"], "resume web01"),
        (["retry", "--vm", "web01"], "retry web01"),
        (["cancel", "--vm", "web01"], "cancel web01"),
        (["rollback", "--vm", "web01"], "rollback web01"),
    ],
)
async def test_controls(v2c: Cli, fake: FakeOrchestrator, arguments: list[str], call: str) -> None:
    fake.add("web01", state=pb.STATE_RUNNING, vm_moref="vm-7")

    result = await v2c(*arguments)

    assert result.status == 0
    assert fake.calls == [call]
    assert "now init, running" in result.out


async def test_the_servers_error_is_one_paragraph(v2c: Cli, fake: FakeOrchestrator) -> None:
    result = await v2c("finalize", "--vm", "web09")

    assert result.status == 1
    assert result.err == "v2c: no migration of 'web09'. Submit a spec for it.\n"


async def test_a_vm_that_is_not_in_the_spec_lists_those_that_are(v2c: Cli) -> None:
    result = await v2c("finalize", "--spec", "web.yaml", "--vm", "web1")

    assert result.status == 1
    assert "'web01', 'app server 02'" in result.err


async def test_finalize_without_a_server_waits_for_the_next(v2c: Cli) -> None:
    folder = v2c.folder / "c" / "web01_vm-7"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"vm_name": "web01", "vm_moref": "vm-7"}))

    result = await v2c("finalize", "--spec", "web.yaml", "--vm", "web01", "--now")

    assert result.status == 0
    assert "no orchestrator runs now" in result.out
    assert (folder / "FINALIZE_NOW").exists()


async def test_without_a_server_a_control_names_how_to_start_one(v2c: Cli) -> None:
    result = await v2c("pause", "--vm", "web01")

    assert result.status == 1
    assert "v2c serve" in result.err


async def test_events_and_lists(v2c: Cli, fake: FakeOrchestrator) -> None:
    event = pb.Event(sequence=1, vm_name="web01", message="finalize requested", actor="anna")
    event.time.FromJsonString("2026-03-12T14:03:12Z")
    fake.events = [event]

    events = await v2c("events")
    vms = await v2c("list", "vms")
    zones = json.loads((await v2c("list", "zones", "--json")).out)

    assert events.out == "2026-03-12 14:03:12Z web01: finalize requested (by anna)\n"
    assert [f"vm{n}" in vms.out for n in range(3)] == [True, True, True]
    assert zones[0]["id"] == "id-PLACEMENT_KIND_ZONE"
