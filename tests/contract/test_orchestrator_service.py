"""The orchestrator as its clients see it: gRPC over a unix socket, DBOS on SQLite, real time.

Only the three agents are in memory. The engine is one per process, so these tests never overlap.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import grpc
import pytest
from sqlalchemy.exc import OperationalError

from services.config import parse_config
from services.config.document import Document, parse_document
from services.kit.channel import call, connect
from services.kit.errors import RemoteError
from services.kit.failure import Code
from services.kit.server import serving
from services.orchestrator import server
from services.orchestrator.controls.controls import Controls
from services.orchestrator.database.store import Store
from tests.rigs.orchestrator.agents import Memory, content, failure, machine, memory_agents
from tests.rigs.orchestrator.rig import spec_text
from v2c.orchestrator.v1 import orchestrator_pb2 as pb
from v2c.orchestrator.v1 import orchestrator_pb2_grpc as rpc

_CONFIG = """
vcenter: {{host: vc.example.com, user: admin, password: secret}}
migration: {{vddk_path: /vddk, control_dir: {directory}}}
cloudstack: {{endpoint: cs.example.com, api_key: key, secret_key: secret}}
cloudstack_defaults:
  {{zoneid: zone-1, clusterid: cluster-1, storageid: pool-1, networkid: net-1,
   serviceofferingid: offering-1, diskofferingid: disks-1}}
"""
_T = TypeVar("_T")


async def _ask(answer: Awaitable[_T]) -> _T:
    """A unary call's answer. Raises RemoteError."""
    return await call(answer, peer="orchestrator")


class Client:
    """A client's calls, with the deadlines that the service demands."""

    def __init__(self, stub: "rpc.OrchestratorServiceAsyncStub") -> None:
        self.stub = stub

    async def submit(self, text: str, *, start: bool = True) -> pb.Migration:
        request = pb.SubmitSpecRequest(spec=text, source="spec.yaml", start=start)
        answer = await _ask(self.stub.SubmitSpec(request))
        (migration,) = answer.migrations
        return migration

    async def get(self, migration_id: str) -> pb.Migration:
        request = pb.GetMigrationRequest(selector=pb.Selector(migration_id=migration_id))
        return (await _ask(self.stub.GetMigration(request))).migration

    async def until(
        self, migration_id: str, fits: Callable[[pb.Migration], bool], seconds: float = 30
    ) -> pb.Migration:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            migration = await self.get(migration_id)
            if fits(migration):
                return migration
            await asyncio.sleep(0.02)
        raise AssertionError(f"not in time: {migration}")

    async def waiting(self, migration_id: str) -> pb.Migration:
        """Wait until it waits between two deltas."""
        return await self.until(
            migration_id,
            lambda m: m.stage == pb.STAGE_DELTA and m.state == pb.STATE_WAITING,
        )

    async def finalize(self, migration_id: str) -> None:
        selector = pb.Selector(migration_id=migration_id)
        request = pb.FinalizeMigrationRequest(selector=selector, now=True)
        await _ask(self.stub.FinalizeMigration(request))

    async def done(self, migration_id: str) -> pb.Migration:
        return await self.until(migration_id, lambda m: m.state == pb.STATE_DONE)


@asynccontextmanager
async def orchestrator(
    directory: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Client]:
    """The process' own composition, with agents in memory."""
    for name in ("vmware", "disk", "cloudstack"):
        agent = getattr(memory.agents, name)
        monkeypatch.setattr(server, f"{name.capitalize()}Agent", lambda _, agent=agent: agent)
    config = parse_config(_CONFIG.format(directory=directory), "config.yaml")
    process = server._Orchestrator(config, None)

    async def register(to: grpc.aio.Server) -> Sequence[str]:
        rpc.add_OrchestratorServiceServicer_to_server(process.servicer, to)
        return ("v2c.orchestrator.v1.OrchestratorService",)

    async def start() -> None:
        await asyncio.to_thread(process.start)

    async def stop() -> None:
        await asyncio.to_thread(process.stop)

    address = f"unix:{directory}/orchestrator.sock"
    async with serving("orchestrator", address, None, register, on_start=start, on_shutdown=stop):
        channel = connect(address, None, default_timeout_seconds=10, name="orchestrator")
        try:
            yield Client(rpc.OrchestratorServiceStub(channel))
        finally:
            await channel.close()


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


def _quick(**migration: object) -> str:
    return spec_text(finalize_settle_seconds=1, **migration)  # type: ignore[arg-type]


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
    migration = await client.submit(_quick(start_vm_after_import="true"))
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
    migration = await client.submit(_quick(delta_interval=3600))
    waiting = await client.waiting(migration.id)
    assert waiting.wake_time.seconds - time.time() > 3000
    asked = time.monotonic()
    await client.finalize(migration.id)
    await client.until(migration.id, lambda m: m.stage > pb.STAGE_DELTA)
    assert time.monotonic() - asked <= 1.0
    await client.done(migration.id)


async def test_a_marker_file_wakes_a_waiting_migration_too(client: Client) -> None:
    migration = await client.submit(_quick(delta_interval=3600))
    waiting = await client.waiting(migration.id)
    asked = time.monotonic()
    (Path(waiting.runtime_dir) / "FINALIZE_NOW").touch()
    await client.until(migration.id, lambda m: m.stage > pb.STAGE_DELTA)
    assert time.monotonic() - asked <= 1.5


async def test_cancel_in_the_middle_of_a_copy(client: Client, memory: Memory) -> None:
    memory.storage.held = True
    migration = await client.submit(_quick())
    copying = await client.until(migration.id, lambda m: bool(memory.storage.transfers))
    assert [debt.kind for debt in copying.debts] == ["image", "image", "snapshot"]
    assert {debt.name for debt in copying.debts} == {
        *memory.storage.images,
        *(name for vm in memory.vcenter.vms.values() for name in vm.snapshot_names),
    }
    assert 0 <= time.time() - copying.debts[-1].create_time.ToSeconds() < 60
    asked = time.monotonic()
    selector = pb.Selector(vm_name="web-1")
    await _ask(client.stub.CancelMigration(pb.CancelMigrationRequest(selector=selector)))
    ended = await client.until(migration.id, lambda m: m.state == pb.STATE_CANCELLED)
    assert time.monotonic() - asked <= 2.0
    assert (memory.storage.images, ended.open_debts, list(ended.debts)) == ({}, 0, [])
    assert [vm.snapshots for vm in memory.vcenter.vms.values()] == [{}]


async def test_a_stopped_orchestrator_goes_on_where_it_was(
    tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with orchestrator(tmp_path, memory, monkeypatch) as client:
        memory.storage.held = True
        migration = await client.submit(_quick(delta_interval=3600))
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
    migration = await client.submit(_quick())
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
    while page := (await _ask(client.stub.ListEvents(request))).events:
        assert len(page) <= 5
        listed += page
        request.after_sequence = page[-1].sequence
    assert [e.sequence for e in streamed] == [e.sequence for e in listed]
    actions = [e.action for e in listed]
    assert actions[0] == "migration.created"
    assert {"operator.start", "vm.found", "pass.durable", "operator.finalize"} <= set(actions)
    (asked,) = (e for e in listed if e.action == "operator.finalize")
    assert asked.actor.startswith("unix")


async def test_a_spec_is_checked_with_the_lines_of_its_mistakes(client: Client) -> None:
    text = _quick().replace("delta_interval", "delta_intervall") + "surprise: 1\n"
    request = pb.CheckSpecRequest(spec=text, source="web.yaml")
    answer = await _ask(client.stub.CheckSpec(request))
    assert list(answer.vms) == []
    found = {p.field.rpartition(".")[2]: p for p in answer.problems}
    assert set(found) == {"delta_intervall", "surprise"}
    typo = found["delta_intervall"]
    assert (typo.source, typo.line) == ("web.yaml", 5)
    assert "delta_interval" in typo.hint
    with pytest.raises(RemoteError) as caught:
        await client.submit(text)
    assert caught.value.reason == "SPEC_INVALID"
    assert "delta_intervall" in caught.value.message
    details = caught.value.detail(pb.SpecInvalidDetails)
    assert details is not None
    assert {p.source for p in details.problems} == {"spec.yaml"}
    assert [(p.line, p.field) for p in details.problems] == [
        (p.line, p.field) for p in answer.problems
    ]
    assert details.more_count == 0
    listed = await _ask(client.stub.ListMigrations(pb.ListMigrationsRequest()))
    assert list(listed.migrations) == []


async def test_a_good_spec_is_planned(client: Client) -> None:
    request = pb.CheckSpecRequest(spec=_quick())
    (planned,) = (await _ask(client.stub.CheckSpec(request))).vms
    assert (planned.vm_name, planned.vm_moref, planned.migration_id) == ("web-1", "vm-1", "")
    migration = await client.submit(_quick(), start=False)
    (planned,) = (await _ask(client.stub.CheckSpec(request))).vms
    assert planned.migration_id == migration.id


async def test_names_that_fit_several_machines_are_refused(client: Client) -> None:
    first = await client.submit(spec_text("twin", "vm-1"), start=False)
    await client.submit(spec_text("twin", "vm-2"), start=False)
    request = pb.GetMigrationRequest(selector=pb.Selector(vm_name="twin"))
    with pytest.raises(RemoteError) as caught:
        await _ask(client.stub.GetMigration(request))
    assert caught.value.reason == "AMBIGUOUS_MIGRATION"
    assert "vm-1" in caught.value.message
    assert "vm-2" in caught.value.message
    details = caught.value.detail(pb.AmbiguousMigrationDetails)
    assert details is not None
    assert (details.selector, details.more_count) == ("twin", 0)
    assert [(each.vm_name, each.vm_moref) for each in details.candidates] == [
        ("twin", "vm-1"),
        ("twin", "vm-2"),
    ]
    assert {each.state for each in details.candidates} == {pb.STATE_QUEUED}
    request.selector.vm_moref = "vm-1"
    answer = await _ask(client.stub.GetMigration(request))
    assert answer.migration.id == first.id
    request.selector.CopyFrom(pb.Selector(vm_name="nobody"))
    with pytest.raises(RemoteError) as caught:
        await _ask(client.stub.GetMigration(request))
    assert caught.value.reason == "MIGRATION_NOT_FOUND"


async def test_any_of_id_moref_and_name_means_a_migration(client: Client) -> None:
    web = await client.submit(spec_text("web", "vm-1"), start=False)
    odd = await client.submit(spec_text("vm-1x", "vm-2"), start=False)
    shadow = await client.submit(spec_text("vm-2", "vm-3"), start=False)

    async def found(text: str) -> str:
        request = pb.GetMigrationRequest(selector=pb.Selector(any=text))
        return (await _ask(client.stub.GetMigration(request))).migration.id

    for text in (web.id, "vm-1", "web"):
        assert await found(text) == web.id
    for text in (odd.id, "vm-1x"):
        assert await found(text) == odd.id
    with pytest.raises(RemoteError) as caught:
        await found("vm-2")  # one machine's moref, another one's name
    assert caught.value.reason == "AMBIGUOUS_MIGRATION"
    details = caught.value.detail(pb.AmbiguousMigrationDetails)
    assert details is not None
    assert [each.id for each in details.candidates] == [odd.id, shadow.id]
    with pytest.raises(RemoteError) as caught:
        await found("nobody")
    assert (caught.value.code, caught.value.reason) == (Code.NOT_FOUND, "MIGRATION_NOT_FOUND")
    assert caught.value.message == "there is no migration of nobody"

    events = pb.ListEventsRequest(selector=pb.Selector(any="web"), after_sequence=1 << 40)
    answer = await _ask(client.stub.ListEvents(events))
    assert (answer.migration_id, answer.vm_name, len(answer.events)) == (web.id, "web", 0)


async def test_a_start_that_names_an_unknown_machine_changes_nothing(
    client: Client, tmp_path: Path
) -> None:
    migration = await client.submit(spec_text("web", "vm-1"), start=False)
    selectors = [pb.Selector(any="web"), pb.Selector(any="nobody")]
    request = pb.StartMigrationsRequest(selectors=selectors, parallel_vms=7)
    with pytest.raises(RemoteError) as caught:
        await _ask(client.stub.StartMigrations(request))
    assert caught.value.reason == "MIGRATION_NOT_FOUND"
    assert (await client.get(migration.id)).activity == "submitted, not started"
    store = Store(f"sqlite:///{tmp_path}/v2c.sqlite3")
    assert store.setting("parallel_vms", "unset") == "unset"
    store.close()


async def test_any_means_the_migration_that_has_not_ended(client: Client) -> None:
    first = await client.submit(spec_text("web", "vm-1"), start=False)
    cancel = pb.CancelMigrationRequest(selector=pb.Selector(any="web"))
    await _ask(client.stub.CancelMigration(cancel))
    await client.until(first.id, lambda m: m.state == pb.STATE_CANCELLED)
    second = await client.submit(spec_text("web", "vm-1"), start=False)
    for text, meant in (("web", second.id), ("vm-1", second.id), (first.id, first.id)):
        request = pb.GetMigrationRequest(selector=pb.Selector(any=text))
        assert (await _ask(client.stub.GetMigration(request))).migration.id == meant


async def test_a_spec_that_looks_wrong_is_accepted_with_warnings(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = 0

    def counted(text: str, source: str) -> Document:
        nonlocal parsed
        parsed += 1
        return parse_document(text, source)

    monkeypatch.setattr("services.config.loader.parse_document", counted)
    text = spec_text("web", "vm-1", nics=False) + "target: {cloudstack: {zoneid: zone-9}}\n"
    request = pb.SubmitSpecRequest(spec=text, source="web.yaml")
    answer = await _ask(client.stub.SubmitSpec(request))
    (warning,) = answer.warnings
    assert (warning.source, warning.field) == ("web.yaml", "target.cloudstack.zoneid")
    assert (warning.line, warning.value) == (text.count("\n"), "zone-9")
    assert [migration.vm_name for migration in answer.migrations] == ["web"]
    assert parsed == 1


async def test_lists_come_in_pages(client: Client) -> None:
    for number in range(5):
        await client.submit(spec_text(f"vm{number}", f"vm-{number}"), start=False)
    names: list[str] = []
    request = pb.ListMigrationsRequest(page_size=2, states=[pb.STATE_QUEUED])
    while True:
        answer = await _ask(client.stub.ListMigrations(request))
        assert len(answer.migrations) <= 2
        names += [m.vm_name for m in answer.migrations]
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    assert names == [f"vm{number}" for number in range(5)]
    request = pb.ListMigrationsRequest(page_size=-1)
    with pytest.raises(RemoteError) as caught:
        await _ask(client.stub.ListMigrations(request))
    assert caught.value.reason == "INVALID_FIELD"


async def test_what_the_table_forbids_is_a_failed_precondition(client: Client) -> None:
    migration = await client.submit(_quick(), start=False)
    request = pb.RollbackMigrationRequest(selector=pb.Selector(migration_id=migration.id))
    with pytest.raises(RemoteError) as caught:
        await _ask(client.stub.RollbackMigration(request))
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert caught.value.metadata["stage"] == "init"


async def test_all_that_were_never_started_start_together(client: Client, memory: Memory) -> None:
    memory.vcenter.add(machine("web-2", "vm-2"))
    for number in (1, 2):
        await client.submit(spec_text(f"web-{number}", f"vm-{number}"), start=False)
    request = pb.StartMigrationsRequest(parallel_vms=2)
    started = (await _ask(client.stub.StartMigrations(request))).migrations
    assert {m.vm_name for m in started} == {"web-1", "web-2"}
    for migration in started:
        await client.waiting(migration.id)


async def test_source_target_and_table_are_passed_on(client: Client) -> None:
    request = pb.ListSourceVmsRequest(filter="web")
    (vm,) = (await _ask(client.stub.ListSourceVms(request))).vms
    assert (vm.moref, vm.power_state, len(vm.disks), len(vm.nics)) == ("vm-1", "on", 2, 2)
    wanted = pb.ListTargetPlacementsRequest(kind=pb.PLACEMENT_KIND_NETWORK, zone_id="zone-1")
    (placement,) = (await _ask(client.stub.ListTargetPlacements(wanted))).placements
    assert placement.zone_id == "zone-1"
    table = await _ask(client.stub.GetStateTable(pb.GetStateTableRequest()))
    assert [r.stage for r in table.rows] == list(range(1, 17))


async def test_a_full_disk_under_the_database_is_reported(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = await client.submit(_quick(delta_interval=3600), start=False)

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
