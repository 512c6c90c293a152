"""Whether the API can work, for load balancers and supervisors. Needs no token."""

import asyncio

import grpc
from fastapi import APIRouter, Request, Response
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.models import Health
from services.kit.health import is_serving

router = APIRouter(tags=["health"])

_TIMEOUT_SECONDS = 2.0


@router.get(
    "/health",
    responses={503: {"description": "The orchestrator is not ready.", "model": Health}},
)
async def get_health(request: Request, response: Response) -> Health:
    """Ready (200, `ok`) or not ready (503, `unavailable`). The only route without a token."""
    stub = health_pb2_grpc.HealthStub(request.app.state.channel)
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_SECONDS)
    except (grpc.aio.AioRpcError, asyncio.CancelledError) as exc:
        task = asyncio.current_task()
        if isinstance(exc, asyncio.CancelledError) and (task is None or task.cancelling()):
            raise
        answer = None
    if is_serving(answer):
        return Health(status="ok")
    response.status_code = 503
    return Health(status="unavailable")
