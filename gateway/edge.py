"""What every HTTP request passes first: request id, the token, the last line of error handling."""

import re
import secrets
import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.admin_token import AdminToken
from gateway.problems import TokenRefused, TokenRequired, problem_response
from services.kit.errors import internal_error
from services.kit.failure import ServiceError

_REQUEST_ID = "x-request-id"
_ACCEPTED_REQUEST_ID = re.compile(r"^[A-Za-z0-9._:-]{1,64}$")
# Probes have no token; the answer is up or down and nothing else.
_OPEN_PATHS = frozenset({"/health"})

_log = structlog.stdlib.get_logger(__name__)


class Edge:
    """ASGI middleware around the whole application, so that no route can forget the token.

    A request's ``X-Request-ID`` is kept, or one is made. It is bound to the log context, from where
    it reaches the logs of all services, and sent back. No response may be cached on the way.
    """

    def __init__(self, app: ASGIApp, token: AdminToken) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        request_id = headers.get(_REQUEST_ID, "")
        if not _ACCEPTED_REQUEST_ID.match(request_id):
            request_id = secrets.token_hex(8)
        scope["v2c.request_id"] = request_id
        started = time.perf_counter()
        status = 0
        complete = False

        async def send_marked(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                added = MutableHeaders(scope=message)
                added["X-Request-ID"] = request_id
                added["X-Content-Type-Options"] = "nosniff"
                added.setdefault("Cache-Control", "no-store")
            complete = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                if scope["path"] not in _OPEN_PATHS:
                    self._authenticate(headers, scope)
                await self._app(scope, receive, send_marked)
            except Exception as exc:
                # Starlette answers an unexpected exception (see `on_unexpected`), then raises it
                # again; what broke a response off half-way is left to the server to close.
                if status and not complete:
                    raise
                if not status:
                    error = exc if isinstance(exc, ServiceError) else internal_error(exc)
                    await problem_response(error, request_id)(scope, receive, send_marked)
            _log.debug(
                "http served",
                action="http.served",
                method=scope["method"],
                path=scope["path"],
                status=status,
                seconds=round(time.perf_counter() - started, 4),
            )

    def _authenticate(self, headers: Headers, scope: Scope) -> None:
        scheme, _, presented = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._token.matches(presented.strip()):
            return
        if presented:
            client = scope.get("client")
            _log.warning(
                "a wrong token was presented",
                action="auth.refused",
                client=client[0] if client else "",
                path=scope["path"],
            )
            raise TokenRefused("the token is wrong")
        raise TokenRequired("this needs the admin token")
