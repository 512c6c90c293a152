"""The application: routes, errors and the edge in front of them."""

import importlib.metadata

import grpc
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from gateway.admin_token import AdminToken
from gateway.edge import Edge
from gateway.orchestrator import Orchestrator
from gateway.problems import (
    on_http_exception,
    on_invalid_request,
    on_service_error,
    on_unexpected,
)
from gateway.routes import health, inventory, migrations
from services.kit.failure import ServiceError

_DESCRIPTION = """Moves running virtual machines from VMware to Apache CloudStack.

Submit a spec, start its migrations, follow their status, request the cutover.
Every route but `/health` needs `Authorization: Bearer TOKEN`; the token was printed when the
gateway was started for the first time.

Errors are `application/problem+json` with a stable `reason`, a `message`, a `hint` with the next
step, and `metadata`. Every response has an `X-Request-ID`, which is in the logs of all services.
"""


def create_app(channel: grpc.aio.Channel, token: AdminToken) -> ASGIApp:
    """The ASGI application over a channel to the orchestrator.

    The OpenAPI document is at ``/openapi.json``. There is no CORS: browsers are served from the
    same origin.
    """
    app = FastAPI(
        title="v2c",
        version=importlib.metadata.version("v2c"),
        description=_DESCRIPTION,
        # The document's viewers load scripts from other hosts and cannot send a token.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            ServiceError: on_service_error,
            HTTPException: on_http_exception,
            RequestValidationError: on_invalid_request,
            Exception: on_unexpected,
        },
    )
    app.state.channel = channel
    app.state.orchestrator = Orchestrator(channel)
    for routes in (health, inventory, migrations):
        app.include_router(routes.router)
    _describe_token(app)
    return Edge(app, token)


def _describe_token(app: FastAPI) -> None:
    """Add the bearer token to the OpenAPI document; the edge checks it, not the routes."""
    generate = app.openapi

    def openapi() -> dict[str, object]:
        document = generate()
        components = document.setdefault("components", {})
        components["securitySchemes"] = {"admin": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"admin": []}]
        document["paths"]["/health"]["get"]["security"] = []
        return document

    app.openapi = openapi  # type: ignore[method-assign]
