"""A gateway before an orchestrator in memory, both as they serve: what its tests start."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from gateway.admin_token import chosen_token
from gateway.app import create_app
from services.kit.channel import connect
from services.kit.server import serving
from tests.rigs.fakes.gateway_orchestrator import FakeOrchestrator

TOKEN = "a-token-for-the-tests-of-the-gateway"


@asynccontextmanager
async def gateway(
    orchestrator: FakeOrchestrator, folder: Path, token: str = TOKEN
) -> AsyncIterator[httpx.AsyncClient]:
    """A client before a gateway, before a gRPC server; it sends `token` unless that is empty."""
    listen = f"unix:{folder}/orchestrator.sock"
    async with (
        serving("orchestrator", listen, None, orchestrator.register),
        connect(listen, None, default_timeout_seconds=5, name="orchestrator") as channel,
        httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app(channel, chosen_token(TOKEN))),
            base_url="http://gateway",
            headers={"Authorization": f"Bearer {token}"} if token else {},
        ) as client,
    ):
        yield client


def problem_of(response: httpx.Response, status: int, reason: str) -> dict[str, Any]:
    """The problem document of a response that has to be one."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert (document["status"], document["reason"]) == (status, reason)
    assert document["message"]
    assert document["request_id"] == response.headers["x-request-id"]
    return document
