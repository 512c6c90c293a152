"""Specs that are checked and submitted, and which migration a selector means."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.config.document import Document, parse_document
from services.kit.errors import RemoteError
from services.kit.failure import Code
from services.orchestrator.database.store import Store
from tests.rigs.orchestrator.agents import Memory, machine, memory_agents
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


async def test_a_spec_is_checked_with_the_lines_of_its_mistakes(client: Client) -> None:
    text = quick().replace("delta_interval", "delta_intervall") + "surprise: 1\n"
    request = pb.CheckSpecRequest(spec=text, source="web.yaml")
    answer = await ask(client.stub.CheckSpec(request))
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
    listed = await ask(client.stub.ListMigrations(pb.ListMigrationsRequest()))
    assert list(listed.migrations) == []


async def test_a_good_spec_is_planned(client: Client) -> None:
    request = pb.CheckSpecRequest(spec=quick())
    (planned,) = (await ask(client.stub.CheckSpec(request))).vms
    assert (planned.vm_name, planned.vm_moref, planned.migration_id) == ("web-1", "vm-1", "")
    migration = await client.submit(quick(), start=False)
    (planned,) = (await ask(client.stub.CheckSpec(request))).vms
    assert planned.migration_id == migration.id


async def test_names_that_fit_several_machines_are_refused(client: Client) -> None:
    first = await client.submit(spec_text("twin", "vm-1"), start=False)
    await client.submit(spec_text("twin", "vm-2"), start=False)
    request = pb.GetMigrationRequest(selector=pb.Selector(vm_name="twin"))
    with pytest.raises(RemoteError) as caught:
        await ask(client.stub.GetMigration(request))
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
    answer = await ask(client.stub.GetMigration(request))
    assert answer.migration.id == first.id
    request.selector.CopyFrom(pb.Selector(vm_name="nobody"))
    with pytest.raises(RemoteError) as caught:
        await ask(client.stub.GetMigration(request))
    assert caught.value.reason == "MIGRATION_NOT_FOUND"


async def test_any_of_id_moref_and_name_means_a_migration(client: Client) -> None:
    web = await client.submit(spec_text("web", "vm-1"), start=False)
    odd = await client.submit(spec_text("vm-1x", "vm-2"), start=False)
    shadow = await client.submit(spec_text("vm-2", "vm-3"), start=False)

    async def found(text: str) -> str:
        request = pb.GetMigrationRequest(selector=pb.Selector(any=text))
        return (await ask(client.stub.GetMigration(request))).migration.id

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
    answer = await ask(client.stub.ListEvents(events))
    assert (answer.migration_id, answer.vm_name, len(answer.events)) == (web.id, "web", 0)


async def test_a_start_that_names_an_unknown_machine_changes_nothing(
    client: Client, tmp_path: Path
) -> None:
    migration = await client.submit(spec_text("web", "vm-1"), start=False)
    selectors = [pb.Selector(any="web"), pb.Selector(any="nobody")]
    request = pb.StartMigrationsRequest(selectors=selectors, parallel_vms=7)
    with pytest.raises(RemoteError) as caught:
        await ask(client.stub.StartMigrations(request))
    assert caught.value.reason == "MIGRATION_NOT_FOUND"
    assert (await client.get(migration.id)).activity == "submitted, not started"
    store = Store(f"sqlite:///{tmp_path}/v2c.sqlite3")
    assert store.setting("parallel_vms", "unset") == "unset"
    store.close()


async def test_any_means_the_migration_that_has_not_ended(client: Client) -> None:
    first = await client.submit(spec_text("web", "vm-1"), start=False)
    cancel = pb.CancelMigrationRequest(selector=pb.Selector(any="web"))
    await ask(client.stub.CancelMigration(cancel))
    await client.until(first.id, lambda m: m.state == pb.STATE_CANCELLED)
    second = await client.submit(spec_text("web", "vm-1"), start=False)
    for text, meant in (("web", second.id), ("vm-1", second.id), (first.id, first.id)):
        request = pb.GetMigrationRequest(selector=pb.Selector(any=text))
        assert (await ask(client.stub.GetMigration(request))).migration.id == meant


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
    answer = await ask(client.stub.SubmitSpec(request))
    (warning,) = answer.warnings
    assert (warning.source, warning.field) == ("web.yaml", "target.cloudstack.zoneid")
    assert (warning.line, warning.value) == (text.count("\n"), "zone-9")
    assert [migration.vm_name for migration in answer.migrations] == ["web"]
    assert parsed == 1
