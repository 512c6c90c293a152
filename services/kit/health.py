"""grpc.health.v1 for a server: NOT_SERVING until it is ready, and from when it begins to stop."""

from collections.abc import Sequence

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

HEALTH_SERVICE: str = health.SERVICE_NAME


class HealthReporter:
    """Sets the health status of the whole server ("") and of each of its services."""

    def __init__(self) -> None:
        self._servicer = health.aio.HealthServicer()
        self._services: tuple[str, ...] = ("",)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the health service."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def starting(self, services: Sequence[str]) -> None:
        """Report NOT_SERVING for these services and the server."""
        self._services = ("", *services)
        for service in self._services:
            await self._servicer.set(service, _NOT_SERVING)

    async def serving(self) -> None:
        """Report SERVING."""
        for service in self._services:
            await self._servicer.set(service, _SERVING)

    async def stopping(self) -> None:
        """Report NOT_SERVING until the process ends; later changes have no effect."""
        await self._servicer.enter_graceful_shutdown()


def is_serving(response: object) -> bool:
    """Whether a HealthCheckResponse has the status SERVING."""
    return bool(getattr(response, "status", None) == _SERVING)
