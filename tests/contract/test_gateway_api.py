"""The REST API's edge: the token, health, inventory, specs, problem documents."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import structlog

from gateway.admin_token import chosen_token
from gateway.app import create_app
from services.config import Problem
from services.kit.channel import connect
from services.kit.failure import Code, Failure, ReportedError
from tests.rigs.agents.gateway import TOKEN, gateway, problem_of
from tests.rigs.fakes.gateway_orchestrator import FakeOrchestrator, migration
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

SPEC = "vm:\n  name: web 1\n"


@pytest.fixture
def orchestrator() -> FakeOrchestrator:
    return FakeOrchestrator()  # type: ignore[abstract]  # the rest answers UNIMPLEMENTED


@pytest.fixture
async def bare(orchestrator: FakeOrchestrator, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a token."""
    async with gateway(orchestrator, tmp_path, token="") as client:
        yield client


@pytest.fixture
def api(bare: httpx.AsyncClient) -> httpx.AsyncClient:
    bare.headers["Authorization"] = f"Bearer {TOKEN}"
    return bare


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/vmware/vms"),
        ("GET", "/cloudstack/zones"),
        ("POST", "/migration/spec"),
        ("POST", "/migration/start"),
        ("POST", "/migration/retry/x"),
        ("GET", "/migration/status/x"),
        ("GET", "/migration/jobs"),
        ("GET", "/migration/logs/x"),
        ("POST", "/migration/finalize/x"),
        ("POST", "/migration/shutdown/x?action=force"),
        ("GET", "/openapi.json"),
        ("GET", "/no/such/route"),
        ("GET", "/health/"),
        ("OPTIONS", "/migration/jobs"),
    ],
)
async def test_nothing_but_health_answers_without_the_token(
    bare: httpx.AsyncClient, orchestrator: FakeOrchestrator, method: str, path: str
) -> None:
    response = await bare.request(method, path)
    document = problem_of(response, 401, "TOKEN_REQUIRED")
    assert "Bearer" in document["hint"]
    assert response.headers["www-authenticate"].startswith("Bearer")
    for wrong in (f"Bearer {TOKEN}x", "Bearer ", f"Basic {TOKEN}", TOKEN):
        refused = await bare.request(method, path, headers={"Authorization": wrong})
        assert refused.status_code == 401
    assert orchestrator.requests == []


async def test_no_other_origin_is_allowed(api: httpx.AsyncClient) -> None:
    response = await api.get("/migration/jobs", headers={"Origin": "https://evil.example"})
    assert not [name for name in response.headers if name.startswith("access-control-")]


async def test_health_is_open_and_is_up_or_down(bare: httpx.AsyncClient, tmp_path: Path) -> None:
    up = await bare.get("/health")
    assert (up.status_code, up.json()) == (200, {"status": "ok"})
    nowhere = connect(f"unix:{tmp_path}/none.sock", None, default_timeout_seconds=1, name="x")
    async with (
        nowhere as channel,
        httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app(channel, chosen_token(TOKEN))),
            base_url="http://gateway",
        ) as client,
    ):
        down = await client.get("/health")
        assert (down.status_code, down.json()) == (503, {"status": "unavailable"})
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        response = await client.get("/migration/jobs")
        document = problem_of(response, 503, "REMOTE_UNAVAILABLE")
        assert document["retryable"] is True
        assert response.headers["retry-after"]


async def test_all_machines_of_the_source(
    api: httpx.AsyncClient, orchestrator: FakeOrchestrator
) -> None:
    orchestrator.vms = [
        pb.SourceVm(
            moref=f"vm-{number}",
            name=f"web {number}",
            path=f"/DC/vm/web {number}",
            power_state="on",
            disks=[pb.SourceDisk(unit=0, key=2000, label="Hard disk 1", capacity_bytes=1 << 30)],
            nics=[pb.SourceNic(key=4000, label="Network adapter 1", mac="00:50:56:00:00:01")],
        )
        for number in range(1000)
    ]
    everything = (await api.get("/vmware/vms")).json()
    assert everything["count"] == len(everything["vms"]) == 1000
    assert everything["vms"][7]["disks"][0]["unit"] == 0
    assert everything["vms"][7]["nics"][0]["mac"] == "00:50:56:00:00:01"
    one = (await api.get("/vmware/vms", params={"filter": "web 999"})).json()
    assert [vm["moref"] for vm in one["vms"]] == ["vm-999"]


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("zones", pb.PLACEMENT_KIND_ZONE),
        ("clusters", pb.PLACEMENT_KIND_CLUSTER),
        ("storage", pb.PLACEMENT_KIND_STORAGE_POOL),
        ("networks", pb.PLACEMENT_KIND_NETWORK),
        ("diskofferings", pb.PLACEMENT_KIND_DISK_OFFERING),
        ("serviceofferings", pb.PLACEMENT_KIND_SERVICE_OFFERING),
        ("ostypes", pb.PLACEMENT_KIND_OS_TYPE),
    ],
)
async def test_placements_of_each_kind(
    api: httpx.AsyncClient,
    orchestrator: FakeOrchestrator,
    kind: str,
    asked: pb.PlacementKind.ValueType,
) -> None:
    orchestrator.placements = [
        pb.TargetPlacement(id="a", name="A", zone_id="z1", cluster_id="c1"),
        pb.TargetPlacement(id="b", name="B", zone_id="z1", attributes={"type": "Shared"}),
        pb.TargetPlacement(id="c", name="C", zone_id="z2"),
    ]
    everything = (await api.get(f"/cloudstack/{kind}")).json()
    assert (everything["kind"], everything["count"]) == (kind, 3)
    assert everything["items"][1] == {
        "id": "b",
        "name": "B",
        "zoneid": "z1",
        "clusterid": None,
        "attributes": {"type": "Shared"},
    }
    assert orchestrator.requests[-1].kind == asked
    in_zone = (await api.get(f"/cloudstack/{kind}", params={"zoneid": "z1"})).json()
    assert [item["id"] for item in in_zone["items"]] == ["a", "b"]
    in_cluster = (await api.get(f"/cloudstack/{kind}?clusterid=c1")).json()
    assert [item["id"] for item in in_cluster["items"]] == ["a"]


async def test_an_unknown_kind_of_placement_names_the_valid_ones(api: httpx.AsyncClient) -> None:
    document = problem_of(await api.get("/cloudstack/pools"), 422, "REQUEST_INVALID")
    assert "'storage'" in document["message"]


def _mistake(line: int, field: str, message: str, hint: str = "") -> Problem:
    return Problem("spec", line, 3, field, "", message, hint)


async def test_a_spec_is_kept_and_not_started_in_one_call(
    api: httpx.AsyncClient, orchestrator: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.config.loader.parse_document", None)  # The service parses.
    orchestrator.warnings = [
        Problem("a.yaml", 5, 13, "target.cloudstack.zoneid", "zone1", "is no UUID", "give the id")
    ]
    text = SPEC + "target:\n  cloudstack:\n    zoneid: zone1\n"
    response = await api.post("/migration/spec", params={"source": "a.yaml"}, content=text)
    assert response.status_code == 201, response.text
    assert response.json() == {
        "vms": [{"vm_name": "web 1", "vm_moref": None, "migration_id": "m1"}],
        "warnings": [
            {
                "source": "a.yaml",
                "line": 5,
                "column": 13,
                "field": "target.cloudstack.zoneid",
                "value": "zone1",
                "message": "is no UUID",
                "hint": "give the id",
            }
        ],
    }
    (submitted,) = orchestrator.requests
    assert (submitted.spec, submitted.source, submitted.start) == (text, "a.yaml", False)


async def test_mistakes_in_a_spec_come_with_line_and_field(
    api: httpx.AsyncClient, orchestrator: FakeOrchestrator
) -> None:
    orchestrator.problems = [
        _mistake(3, "migration.delta_intervall", "unknown key", "did you mean delta_interval?"),
        _mistake(5, "target", "is missing"),
    ]
    response = await api.post("/migration/spec", json={"vm": {"name": "x"}})
    document = problem_of(response, 422, "SPEC_INVALID")
    assert document["message"] == (
        "spec has 2 mistakes: line 3: migration.delta_intervall: unknown key"
    )
    assert document["errors"] == [
        {
            "source": "spec",
            "line": 3,
            "column": 3,
            "field": "migration.delta_intervall",
            "value": "",
            "message": "unknown key",
            "hint": "did you mean delta_interval?",
        },
        {
            "source": "spec",
            "line": 5,
            "column": 3,
            "field": "target",
            "value": "",
            "message": "is missing",
            "hint": "",
        },
    ]
    assert orchestrator.stored == []
    assert len(orchestrator.requests) == 1


async def test_more_mistakes_than_a_status_holds_are_all_listed(
    api: httpx.AsyncClient, orchestrator: FakeOrchestrator
) -> None:
    orchestrator.problems = [
        _mistake(line, f"vms[{line}].target.cloudstack.zoneid", "is missing", "Give the zone's id.")
        for line in range(1, 1001)
    ]
    response = await api.post("/migration/spec", content=SPEC)
    document = problem_of(response, 422, "SPEC_INVALID")
    assert document["message"].startswith("spec has 1000 mistakes: line 1: vms[1].target")
    assert [error["line"] for error in document["errors"]] == list(range(1, 1001))


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 422, "SPEC_INVALID"),
        (b"vm: \xff\xfe", 422, "SPEC_INVALID"),
        (b"#" * (4 * 1024 * 1024 + 1), 413, "SPEC_TOO_LARGE"),
    ],
)
async def test_a_body_that_is_no_spec_reaches_nobody(
    api: httpx.AsyncClient,
    orchestrator: FakeOrchestrator,
    body: bytes,
    status: int,
    reason: str,
) -> None:
    problem_of(await api.post("/migration/spec", content=body), status, reason)
    assert orchestrator.requests == []


async def test_start_all_or_those_named(
    api: httpx.AsyncClient, orchestrator: FakeOrchestrator
) -> None:
    orchestrator.stored = [migration(1, "web 1", "vm-1"), migration(2, "db", "vm-2")]
    named = (await api.post("/migration/start", json={"vms": ["vm-2"], "parallel_vms": 5})).json()
    assert [(job["vm_name"], job["status"]) for job in named["started"]] == [("db", "running")]
    (started,) = orchestrator.requests
    assert [selector.any for selector in started.selectors] == ["vm-2"]
    assert started.parallel_vms == 5
    everything = (await api.post("/migration/start")).json()
    assert everything["count"] == 2
    assert orchestrator.requests[-1].parallel_vms == 0
    typo = await api.post("/migration/start", json={"vm": ["db"]})
    assert "vm" in problem_of(typo, 422, "REQUEST_INVALID")["message"]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Code.INVALID_ARGUMENT, 400),
        (Code.NOT_FOUND, 404),
        (Code.ALREADY_EXISTS, 409),
        (Code.FAILED_PRECONDITION, 409),
        (Code.UNIMPLEMENTED, 501),
        (Code.UNAUTHENTICATED, 502),
        (Code.PERMISSION_DENIED, 502),
        (Code.UNAVAILABLE, 503),
        (Code.RESOURCE_EXHAUSTED, 503),
        (Code.DEADLINE_EXCEEDED, 504),
        (Code.INTERNAL, 500),
    ],
)
async def test_every_error_of_a_service_is_a_problem_document(
    api: httpx.AsyncClient, orchestrator: FakeOrchestrator, code: Code, status: int
) -> None:
    metadata = {"field": "vcenter.password", "errno": "ECONNRESET"}
    orchestrator.failure = ReportedError(
        Failure("SOMETHING_WRONG", "something is wrong", code, "repair it", True, metadata=metadata)
    )
    document = problem_of(await api.get("/vmware/vms"), status, "SOMETHING_WRONG")
    assert document["message"] == "something is wrong"
    assert document["hint"] == "repair it"
    assert document["metadata"] == metadata
    assert document["retryable"] is True


async def test_request_ids_reach_the_service_behind(
    api: httpx.AsyncClient, orchestrator: FakeOrchestrator
) -> None:
    response = await api.get("/migration/jobs", headers={"X-Request-ID": "ticket-4711"})
    assert response.headers["x-request-id"] == "ticket-4711"
    assert orchestrator.request_ids == ["ticket-4711"]
    forged = await api.get("/migration/jobs", headers={"X-Request-ID": 'x" y'})
    assert forged.headers["x-request-id"] == orchestrator.request_ids[-1] != 'x" y'


async def test_a_defect_gives_away_only_a_log_id(
    api: httpx.AsyncClient, orchestrator: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise KeyError("hunter2")

    monkeypatch.setattr("gateway.translation.summary", broken)
    orchestrator.stored = [migration(1, "web", "vm-1")]
    with structlog.testing.capture_logs() as logs:
        response = await api.get("/migration/jobs")
    document = problem_of(response, 500, "INTERNAL")
    assert document["metadata"]["log_id"] in document["message"]
    assert "hunter2" not in response.text
    (logged,) = [line for line in logs if line.get("action") == "rpc.internal_error"]
    assert logged["log_id"] == document["metadata"]["log_id"]
    assert isinstance(logged["exc_info"], KeyError)


async def test_unknown_routes_and_methods_are_problems_too(api: httpx.AsyncClient) -> None:
    problem_of(await api.get("/nope"), 404, "NOT_FOUND")
    response = await api.delete("/migration/jobs")
    problem_of(response, 405, "METHOD_NOT_ALLOWED")
    assert response.headers["allow"] == "GET"


async def test_many_requests_at_once_do_not_wait_for_each_other(
    api: httpx.AsyncClient, orchestrator: FakeOrchestrator
) -> None:
    orchestrator.stored = [migration(n, f"vm {n}", f"vm-{n}") for n in range(1, 51)]
    responses = await asyncio.gather(*(api.get(f"/migration/status/vm-{n}") for n in range(1, 51)))
    assert [response.json()["migration_id"] for response in responses] == [
        f"m{n}" for n in range(1, 51)
    ]


async def test_the_openapi_document_describes_every_route(api: httpx.AsyncClient) -> None:
    document = (await api.get("/openapi.json")).json()
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert set(operations) == {
        "GET /health",
        "GET /vmware/vms",
        "GET /cloudstack/{kind}",
        "POST /migration/spec",
        "POST /migration/start",
        "POST /migration/retry/{vm}",
        "GET /migration/status/{vm}",
        "GET /migration/jobs",
        "GET /migration/logs/{vm}",
        "POST /migration/finalize/{vm}",
        "POST /migration/shutdown/{vm}",
    }
    for name, operation in operations.items():
        assert operation["description"], name
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (name, parameter["name"])
    assert document["security"] == [{"admin": []}]
    assert operations["GET /health"]["security"] == []
    assert "application/yaml" in operations["POST /migration/spec"]["requestBody"]["content"]
