"""The orchestrator as its clients see it: gRPC over a unix socket, DBOS on SQLite, real time.

Only the three agents are in memory. The engine is one per process, so these tests never overlap.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from services.kit.errors import RemoteError
from services.kit.failure import Code
from services.orchestrator.controls.controls import Controls
from tests.rigs.orchestrator.agents import Memory, content, failure, machine, memory_agents
from tests.rigs.orchestrator.rig import spec_text
from tests.rigs.orchestrator.service import Client, ask, orchestrator, quick
from v2c.orchestrator.v1 import orchestrator_pb2 as pb


@pytest.fixture
async def memory() -> Memory:
    memory = memory_agents(pace=100)
    memory.vcenter.add(machine())
    return memory


@pytest.fixture
async def client(
    tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Client]:
    async with orchestrator(tmp_path, memory, monkeypatch) as client:
        yield client


def _check_identical(memory: Memory, migration: pb.Migration) -> None:
    assert memory.world.broken == []
    (vm,) = memory.vcenter.vms.values()
    assert vm.snapshots == {}
    for disk, shown in zip(vm.disks, migration.disks, strict=True):
        image = memory.storage.images[shown.target_path]
        assert content(image.blocks) == content(disk.blocks)


async def test_a_migration_from_submit_to_done_as_watched(client: Client, memory: Memory) -> None:
    seen: list[pb.Migration] = []

    async def watch() -> None:
        async for answer in client.stub.WatchMigrations(pb.WatchMigrationsRequest()):
            seen.append(answer.migration)
            if answer.migration.state == pb.STATE_DONE:
                return

    watching = asyncio.create_task(watch())
    migration = await client.submit(quick(start_vm_after_import="true"))
    await client.waiting(migration.id)
    await client.finalize(migration.id)
    await asyncio.wait_for(watching, 30)
    revisions = [m.revision for m in seen]
    assert revisions == sorted(set(revisions))
    stages = [m.stage for m in seen]
    assert stages == sorted(stages)
    assert {pb.STAGE_BASE_COPY, pb.STAGE_FINAL_SYNC, pb.STAGE_DONE} <= set(stages)
    last = seen[-1]
    assert (last.open_debts, last.overall_progress) == (0, 100.0)
    assert last.downtime.total_seconds > 0
    assert [p.kind for p in last.passes] == ["base", "final"]
    assert last.target_vm_id in memory.cloudstack.vms
    _check_identical(memory, last)


async def test_an_operators_request_wakes_a_waiting_migration_at_once(client: Client) -> None:
    migration = await client.submit(quick(delta_interval=3600))
    waiting = await client.waiting(migration.id)
    assert waiting.wake_time.seconds - time.time() > 3000
    asked = time.monotonic()
    await client.finalize(migration.id)
    await client.until(migration.id, lambda m: m.stage > pb.STAGE_DELTA)
    assert time.monotonic() - asked <= 1.0
    await client.done(migration.id)


async def test_a_marker_file_wakes_a_waiting_migration_too(client: Client) -> None:
    migration = await client.submit(quick(delta_interval=3600))
    waiting = await client.waiting(migration.id)
    asked = time.monotonic()
    (Path(waiting.runtime_dir) / "FINALIZE_NOW").touch()
    await client.until(migration.id, lambda m: m.stage > pb.STAGE_DELTA)
    assert time.monotonic() - asked <= 1.5


async def test_cancel_in_the_middle_of_a_copy(client: Client, memory: Memory) -> None:
    memory.storage.held = True
    migration = await client.submit(quick())
    copying = await client.until(migration.id, lambda m: bool(memory.storage.transfers))
    assert [debt.kind for debt in copying.debts] == ["image", "image", "snapshot"]
    assert {debt.name for debt in copying.debts} == {
        *memory.storage.images,
        *(name for vm in memory.vcenter.vms.values() for name in vm.snapshot_names),
    }
    assert 0 <= time.time() - copying.debts[-1].create_time.ToSeconds() < 60
    asked = time.monotonic()
    selector = pb.Selector(vm_name="web-1")
    await ask(client.stub.CancelMigration(pb.CancelMigrationRequest(selector=selector)))
    ended = await client.until(migration.id, lambda m: m.state == pb.STATE_CANCELLED)
    assert time.monotonic() - asked <= 2.0
    assert (memory.storage.images, ended.open_debts, list(ended.debts)) == ({}, 0, [])
    assert [vm.snapshots for vm in memory.vcenter.vms.values()] == [{}]


async def test_a_stopped_orchestrator_goes_on_where_it_was(
    tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with orchestrator(tmp_path, memory, monkeypatch) as client:
        memory.storage.held = True
        migration = await client.submit(quick(delta_interval=3600))
        await client.until(migration.id, lambda m: bool(memory.storage.transfers))
    assert {t.state for t in memory.storage.transfers.values()} <= {"queued", "running"}
    started = len(memory.storage.transfers)
    memory.storage.held = False
    async with orchestrator(tmp_path, memory, monkeypatch) as client:
        await client.waiting(migration.id)
        # The transfers that ran were attached to, not repeated.
        assert len(memory.storage.transfers) == started
    async with orchestrator(tmp_path, memory, monkeypatch) as client:
        await client.finalize(migration.id)
        _check_identical(memory, await client.done(migration.id))


async def test_events_are_listed_and_streamed_in_order(client: Client) -> None:
    migration = await client.submit(quick())
    streamed: list[pb.Event] = []

    async def follow() -> None:
        async for answer in client.stub.WatchEvents(pb.WatchEventsRequest()):
            streamed.append(answer.event)
            if answer.event.action == "migration.done":
                return

    following = asyncio.create_task(follow())
    await client.waiting(migration.id)
    await client.finalize(migration.id)
    await asyncio.wait_for(following, 30)
    selector = pb.Selector(migration_id=migration.id)
    request = pb.ListEventsRequest(selector=selector, page_size=5)
    listed: list[pb.Event] = []
    while page := (await ask(client.stub.ListEvents(request))).events:
        assert len(page) <= 5
        listed += page
        request.after_sequence = page[-1].sequence
    assert [e.sequence for e in streamed] == [e.sequence for e in listed]
    actions = [e.action for e in listed]
    assert actions[0] == "migration.created"
    assert {"operator.start", "vm.found", "pass.durable", "operator.finalize"} <= set(actions)
    (asked,) = (e for e in listed if e.action == "operator.finalize")
    assert asked.actor.startswith("unix")


async def test_lists_come_in_pages(client: Client) -> None:
    for number in range(5):
        await client.submit(spec_text(f"vm{number}", f"vm-{number}"), start=False)
    names: list[str] = []
    request = pb.ListMigrationsRequest(page_size=2, states=[pb.STATE_QUEUED])
    while True:
        answer = await ask(client.stub.ListMigrations(request))
        assert len(answer.migrations) <= 2
        names += [m.vm_name for m in answer.migrations]
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    assert names == [f"vm{number}" for number in range(5)]
    request = pb.ListMigrationsRequest(page_size=-1)
    with pytest.raises(RemoteError) as caught:
        await ask(client.stub.ListMigrations(request))
    assert caught.value.reason == "INVALID_FIELD"


async def test_what_the_table_forbids_is_a_failed_precondition(client: Client) -> None:
    migration = await client.submit(quick(), start=False)
    request = pb.RollbackMigrationRequest(selector=pb.Selector(migration_id=migration.id))
    with pytest.raises(RemoteError) as caught:
        await ask(client.stub.RollbackMigration(request))
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert caught.value.metadata["stage"] == "init"


async def test_all_that_were_never_started_start_together(client: Client, memory: Memory) -> None:
    memory.vcenter.add(machine("web-2", "vm-2"))
    for number in (1, 2):
        await client.submit(spec_text(f"web-{number}", f"vm-{number}"), start=False)
    request = pb.StartMigrationsRequest(parallel_vms=2)
    started = (await ask(client.stub.StartMigrations(request))).migrations
    assert {m.vm_name for m in started} == {"web-1", "web-2"}
    for migration in started:
        await client.waiting(migration.id)


async def test_source_target_and_table_are_passed_on(client: Client) -> None:
    request = pb.ListSourceVmsRequest(filter="web")
    (vm,) = (await ask(client.stub.ListSourceVms(request))).vms
    assert (vm.moref, vm.power_state, len(vm.disks), len(vm.nics)) == ("vm-1", "on", 2, 2)
    wanted = pb.ListTargetPlacementsRequest(kind=pb.PLACEMENT_KIND_NETWORK, zone_id="zone-1")
    (placement,) = (await ask(client.stub.ListTargetPlacements(wanted))).placements
    assert placement.zone_id == "zone-1"
    table = await ask(client.stub.GetStateTable(pb.GetStateTableRequest()))
    assert [r.stage for r in table.rows] == list(range(1, 17))


async def test_a_full_disk_under_the_database_is_reported(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = await client.submit(quick(delta_interval=3600), start=False)

    def full(*_: object, **__: object) -> None:
        raise OperationalError("UPDATE", {}, Exception("database or disk is full"))

    monkeypatch.setattr(Controls, "finalize", full)
    with pytest.raises(RemoteError) as caught:
        await client.finalize(migration.id)
    assert caught.value.reason == "DATABASE_UNUSABLE"
    assert "database or disk is full" in caught.value.message
    assert "control_dir" in caught.value.hint


async def test_the_details_of_a_failure_reach_clients(
    tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise failure("TARGET_FULL", message="full", free_bytes="512", needed_bytes="4096")

    monkeypatch.setattr(memory.storage, "_copy", full)
    async with orchestrator(tmp_path, memory, monkeypatch) as client:
        created = await client.submit(spec_text())
        migration = await client.until(created.id, lambda m: m.state == pb.STATE_FAILED)
    error = migration.error
    assert (error.reason, error.message, error.retryable) == ("TARGET_FULL", "full", False)
    assert (error.metadata["free_bytes"], error.metadata["needed_bytes"]) == ("512", "4096")
    assert error.HasField("time")
