"""Migrations over REST: status, lists, logs, what an operator asks for."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.rigs.agents.gateway import gateway, problem_of
from tests.rigs.fakes.gateway_orchestrator import FakeOrchestrator, migration
from v2c.orchestrator.v1 import orchestrator_pb2 as pb


@pytest.fixture
def orchestrator() -> FakeOrchestrator:
    return FakeOrchestrator()  # type: ignore[abstract]  # the rest answers UNIMPLEMENTED


@pytest.fixture
async def api(orchestrator: FakeOrchestrator, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway(orchestrator, tmp_path) as client:
        yield client


async def test_the_status_of_a_running_migration(
    api: httpx.AsyncClient, orchestrator: FakeOrchestrator
) -> None:
    orchestrator.stored = [
        migration(
            1,
            "web 1",
            "vm-1",
            stage=pb.STAGE_DELTA,
            next_stage=pb.STAGE_FINAL_SYNC,
            state=pb.STATE_WAITING,
            activity="waiting 210 s for delta pass 4",
            overall_progress=80.004,
            transfer_rate_bytes_per_second=312_400_000,
            finalize_requested=True,
            disks=[
                pb.DiskProgress(unit=0, percent=100, is_root=True, eta_seconds=-1),
                pb.DiskProgress(unit=3, percent=41.239, eta_seconds=9, volume_id="v"),
            ],
            passes=[pb.Pass(number=0, kind="base", start_time=Timestamp(seconds=1))],
            error=pb.Error(
                reason="POOL_FULL",
                message="too full",
                hint="free some",
                retryable=True,
                metadata={"free_bytes": "12", "needed_bytes": "50", "errno": "ENOSPC"},
            ),
            delta_passes=3,
            open_debts=1,
            debts=[
                pb.Debt(
                    kind="snapshot",
                    name="v2c-1-p4",
                    create_time=Timestamp(seconds=1_700_000_000),
                    attempts=2,
                    last_error="vCenter is busy",
                )
            ],
        )
    ]
    status = (await api.get("/migration/status/web 1")).json()
    assert {
        "migration_id": "m1",
        "vm_name": "web 1",
        "vm_moref": "vm-1",
        "stage": "delta",
        "next_stage": "final_sync",
        "status": "waiting",
        "finalize_requested": True,
        "finalize_now_requested": False,
        "overall_progress": 80.0,
        "transfer_speed_mbps": 312.4,
        "disk_progress": {"0": 100.0, "3": 41.24},
        "delta_passes": 3,
        "target_vm_id": None,
        "downtime": None,
        "create_time": "2023-11-14T22:13:21Z",
        "end_time": None,
    }.items() <= status.items()
    assert [disk["eta_seconds"] for disk in status["disks"]] == [None, 9]
    assert status["passes"][0]["kind"] == "base"
    assert status["passes"][0]["end_time"] is None
    assert status["error"] == {
        "reason": "POOL_FULL",
        "message": "too full",
        "hint": "free some",
        "retryable": True,
        "metadata": {"free_bytes": "12", "needed_bytes": "50", "errno": "ENOSPC"},
        "time": None,
    }
    assert status["open_debts"] == 1
    assert status["debts"] == [
        {
            "kind": "snapshot",
            "name": "v2c-1-p4",
            "create_time": "2023-11-14T22:13:20Z",
            "attempts": 2,
            "last_error": "vCenter is busy",
        }
    ]


async def test_the_status_of_a_finished_migration(
    api: httpx.AsyncClient, orchestrator: FakeOrchestrator
) -> None:
    orchestrator.stored = [
        migration(
            1,
            "web 1",
            "vm-1",
            stage=pb.STAGE_DONE,
            next_stage=pb.STAGE_UNSPECIFIED,
            state=pb.STATE_DONE,
            overall_progress=100,
            target_vm_id="9c0d",
            downtime=pb.Downtime(
                start_time=Timestamp(seconds=100),
                end_time=Timestamp(seconds=142),
                total_seconds=42,
                part_seconds={"final_sync": 30.5, "import_root_disk": 11.5},
            ),
        )
    ]
    status = (await api.get("/migration/status/m1")).json()
    assert (status["stage"], status["next_stage"], status["status"]) == ("done", None, "done")
    assert status["error"] is None
    assert status["target_vm_id"] == "9c0d"
    assert status["downtime"]["total_seconds"] == 42
    assert status["downtime"]["part_seconds"]["final_sync"] == 30.5


@pytest.mark.parametrize("vm", ["web 1", "vm-1", "m1", "a/b ü"])
async def test_a_machine_is_named_by_name_moref_or_migration_id(
    api: httpx.AsyncClient, orchestrator: FakeOrchestrator, vm: str
) -> None:
    orchestrator.stored = [migration(1, "web 1", "vm-1"), migration(2, "a/b ü", "vm-2")]
    wanted = "m2" if vm == "a/b ü" else "m1"
    for path in (f"/migration/status/{vm}", f"/migration/logs/{vm}"):
        assert (await api.get(path)).json()["migration_id"] == wanted
    for path in (f"/migration/finalize/{vm}", f"/migration/retry/{vm}"):
        assert (await api.post(path)).json()["migration_id"] == wanted


@pytest.mark.parametrize("vm", ["web", "vm-1", "m1"])
@pytest.mark.parametrize(
    ("method", "path", "rpc"),
    [
        ("GET", "/migration/status/{}", pb.GetMigrationRequest),
        ("GET", "/migration/logs/{}", pb.ListEventsRequest),
        ("POST", "/migration/finalize/{}", pb.FinalizeMigrationRequest),
        ("POST", "/migration/shutdown/{}?action=force", pb.DecideShutdownRequest),
        ("POST", "/migration/retry/{}", pb.RetryMigrationRequest),
    ],
)
async def test_a_request_for_a_machine_is_one_call(
    api: httpx.AsyncClient,
    orchestrator: FakeOrchestrator,
    method: str,
    path: str,
    rpc: type,
    vm: str,
) -> None:
    orchestrator.stored = [migration(1, "web", "vm-1", stage=pb.STAGE_AWAITING_SHUTDOWN_ACTION)]
    response = await api.request(method, path.format(vm))
    assert (response.status_code, response.json()["migration_id"]) == (200, "m1")
    assert [type(request) for request in orchestrator.requests] == [rpc]
    unknown = await api.request(method, path.format("nobody"))
    problem_of(unknown, 404, "MIGRATION_NOT_FOUND")
    assert len(orchestrator.requests) == 2


async def test_an_unknown_machine_is_404(api: httpx.AsyncClient) -> None:
    document = problem_of(await api.get("/migration/status/nobody"), 404, "MIGRATION_NOT_FOUND")
    assert document["hint"] == "list them"


@pytest.mark.parametrize(
    "stored",
    [
        [("web", "vm-1"), ("web", "vm-2"), ("other", "vm-3")],
        [("web", "vm-1"), ("other", "web")],
    ],
    ids=["one name, two machines", "a name that is another's moref"],
)
async def test_an_ambiguous_machine_lists_the_candidates_and_changes_nothing(
    api: httpx.AsyncClient, orchestrator: FakeOrchestrator, stored: list[tuple[str, str]]
) -> None:
    orchestrator.stored = [
        migration(number, name, moref) for number, (name, moref) in enumerate(stored, 1)
    ]
    document = problem_of(await api.post("/migration/finalize/web"), 409, "AMBIGUOUS_VM")
    assert document["message"] == "'web' may mean 2 migrations"
    assert document["hint"] == "use the moref or the migration id of one of the candidates"
    assert document["metadata"] == {}
    assert [entry["migration_id"] for entry in document["candidates"]] == ["m1", "m2"]
    assert document["candidates"][0] == {
        "migration_id": "m1",
        "vm_name": "web",
        "vm_moref": "vm-1",
        "stage": "init",
        "status": "queued",
    }
    assert not any(entry.finalize_requested for entry in orchestrator.stored)
    assert len(orchestrator.requests) == 1


async def test_candidates_that_a_status_has_no_room_for_are_listed_all_the_same(
    api: httpx.AsyncClient, orchestrator: FakeOrchestrator
) -> None:
    orchestrator.stored = [migration(number, "web", f"vm-{number}") for number in range(1, 1001)]
    document = problem_of(await api.get("/migration/status/web"), 409, "AMBIGUOUS_VM")
    assert document["message"] == "'web' may mean 1000 migrations"
    listed = [entry["migration_id"] for entry in document["candidates"]]
    assert listed == [f"m{number}" for number in range(1, 1001)]


async def test_jobs_of_all_pages_filtered_by_status(
    api: httpx.AsyncClient, orchestrator: FakeOrchestrator
) -> None:
    states = [pb.STATE_FAILED, pb.STATE_DONE, pb.STATE_FAILED, pb.STATE_RUNNING, pb.STATE_FAILED]
    orchestrator.stored = [
        migration(number, f"vm {number}", f"vm-{number}", state=state)
        for number, state in enumerate(states, 1)
    ]
    assert (await api.get("/migration/jobs")).json()["count"] == 5
    failed = (await api.get("/migration/jobs?status=failed&status=running")).json()
    assert [job["migration_id"] for job in failed["jobs"]] == ["m1", "m3", "m4", "m5"]
    problem_of(await api.get("/migration/jobs?status=broken"), 422, "REQUEST_INVALID")


async def test_finalize_now_and_later(
    api: httpx.AsyncClient, orchestrator: FakeOrchestrator
) -> None:
    orchestrator.stored = [migration(1, "web", "vm-1")]
    later = (await api.post("/migration/finalize/web")).json()
    assert (later["finalize_requested"], later["finalize_now_requested"]) == (True, False)
    now = (await api.post("/migration/finalize/web?now=true")).json()
    assert (now["finalize_requested"], now["finalize_now_requested"]) == (True, True)


@pytest.mark.parametrize(
    ("action", "sent"),
    [("force", pb.SHUTDOWN_ACTION_FORCE), ("manual", pb.SHUTDOWN_ACTION_MANUAL)],
)
async def test_shutdown_decisions(
    api: httpx.AsyncClient,
    orchestrator: FakeOrchestrator,
    action: str,
    sent: pb.ShutdownAction.ValueType,
) -> None:
    orchestrator.stored = [migration(1, "web", "vm-1", stage=pb.STAGE_AWAITING_SHUTDOWN_ACTION)]
    response = await api.post(f"/migration/shutdown/web?action={action}")
    assert response.status_code == 200
    assert orchestrator.requests[-1].action == sent


async def test_a_request_that_is_not_possible_now_is_409(
    api: httpx.AsyncClient, orchestrator: FakeOrchestrator
) -> None:
    orchestrator.stored = [migration(1, "web", "vm-1")]
    response = await api.post("/migration/shutdown/web?action=force")
    document = problem_of(response, 409, "CONTROL_NOT_ALLOWED")
    assert document["metadata"] == {"stage": "delta"}
    problem_of(await api.post("/migration/shutdown/web"), 422, "REQUEST_INVALID")
    problem_of(await api.post("/migration/shutdown/web?action=x"), 422, "REQUEST_INVALID")


async def test_logs_continue_where_the_last_ones_ended(
    api: httpx.AsyncClient, orchestrator: FakeOrchestrator
) -> None:
    orchestrator.stored = [migration(1, "web", "vm-1"), migration(2, "db", "vm-2")]
    orchestrator.events = [
        pb.Event(
            sequence=number,
            migration_id="m1" if number % 2 else "m2",
            action="stage.entered",
            message=f"event {number}",
            details={"stage": "delta"},
            time=Timestamp(seconds=number),
        )
        for number in range(1, 10)
    ]
    first = (await api.get("/migration/logs/web?limit=2")).json()
    assert [entry["sequence"] for entry in first["entries"]] == [1, 3]
    assert first["entries"][0]["details"] == {"stage": "delta"}
    later = (await api.get("/migration/logs/web?after=3")).json()
    assert [entry["sequence"] for entry in later["entries"]] == [5, 7, 9]
