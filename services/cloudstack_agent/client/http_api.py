"""The port to CloudStack over signed HTTP.

``requests`` blocks, so calls run in a thread pool of their own: the event loop's default executor
has few more threads than the host has cores, and a slow management server would occupy them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Self

import requests
import structlog
from requests.adapters import HTTPAdapter
from urllib3.exceptions import NewConnectionError

from services.cloudstack_agent.client.api import Parameters, Row, number, text
from services.cloudstack_agent.client.refusals import refusal
from services.cloudstack_agent.client.signing import sign
from services.cloudstack_agent.errors import (
    CloudStackAnswerInvalid,
    CloudStackAnswerLost,
    CloudStackTimeout,
    CloudStackUnavailable,
    CloudStackUnreachable,
    CloudStackUntrusted,
)
from services.kit.failure import ServiceError

_CONNECTIONS: Final = 16
_CONNECT_SECONDS: Final = 10.0
# Pauses before repeating a reading call, for example while a load balancer changes servers.
_PAUSES_SECONDS: Final = (0.2, 1.0)
_READING: Final = ("list", "query")
_NEVER_SENT: Final = (
    requests.exceptions.ConnectTimeout,
    requests.exceptions.InvalidURL,
    requests.exceptions.ProxyError,
)
_PROXY_STATUSES: Final = frozenset({429, 502, 503, 504})

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Account:
    """The keys with which requests are signed; `repr` does not show them."""

    api_key: str = field(repr=False)
    secret_key: str = field(repr=False)


class HttpApi:
    """`api.CloudStackApi` over HTTP. Use as an async context manager, or close it."""

    def __init__(
        self,
        endpoint: str,
        account: Account,
        *,
        timeout_seconds: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._endpoint = endpoint
        self._account = account
        self._timeout = (min(_CONNECT_SECONDS, timeout_seconds), timeout_seconds)
        self._now = now
        self._sleep = sleep
        self._threads = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="cloudstack")
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=_CONNECTIONS))

    @property
    def endpoint(self) -> str:
        """The API's URL."""
        return self._endpoint

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Wait for the calls under way and close the connections."""
        await asyncio.to_thread(self._threads.shutdown)
        self._session.close()

    async def call(self, command: str, parameters: Parameters) -> Row:
        """See `api.CloudStackApi.call`."""
        pauses = _PAUSES_SECONDS if command.startswith(_READING) else ()
        for pause in pauses:
            try:
                return await self._once(command, parameters)
            except CloudStackTimeout:
                raise  # repeating the request would only add to the load
            except (CloudStackUnreachable, CloudStackAnswerLost, CloudStackUnavailable) as error:
                _log.warning(
                    "repeating the request",
                    action="cloudstack.repeat",
                    command=command,
                    reason=error.reason,
                    error=error.message,
                )
            await self._sleep(pause)
        return await self._once(command, parameters)

    async def _once(self, command: str, parameters: Parameters) -> Row:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._send, command, parameters)

    def _send(self, command: str, parameters: Parameters) -> Row:
        form = sign(
            command,
            parameters,
            api_key=self._account.api_key,
            secret_key=self._account.secret_key,
            now=self._now(),
        )
        try:
            # A redirect would turn the POST into a GET without its form.
            response = self._session.post(
                self._endpoint, data=form, timeout=self._timeout, allow_redirects=False
            )
        except requests.RequestException as exc:
            raise self._transport_error(command, exc) from exc
        return self._read(command, response)

    def _transport_error(self, command: str, exc: requests.RequestException) -> ServiceError:
        metadata = {"command": command, "endpoint": self._endpoint}
        if isinstance(exc, requests.exceptions.SSLError):
            return CloudStackUntrusted(
                message=f"{self._endpoint}: the TLS handshake failed: {exc}", metadata=metadata
            )
        if _never_sent(exc):
            return CloudStackUnreachable(
                message=f"{self._endpoint}: no connection ({type(exc).__name__})",
                metadata=metadata,
            )
        if isinstance(exc, requests.exceptions.ReadTimeout):
            return CloudStackTimeout(
                message=f"{self._endpoint}: no answer to {command} in {self._timeout[1]:g} s",
                metadata=metadata,
            )
        return CloudStackAnswerLost(
            message=f"{self._endpoint}: no answer to {command} ({type(exc).__name__})",
            metadata=metadata,
        )

    def _read(self, command: str, response: requests.Response) -> Row:
        envelope = _envelope(response)
        if envelope is not None:
            code = number(envelope, "errorcode")
            if response.ok and not code:
                return envelope
            raise refusal(command, code or response.status_code, text(envelope, "errortext"))
        metadata = {"command": command, "status": str(response.status_code)}
        answered = f"{self._endpoint} answered HTTP {response.status_code}"
        if response.status_code in _PROXY_STATUSES:
            raise CloudStackUnavailable(message=f"{answered} to {command}", metadata=metadata)
        if response.is_redirect:
            answered += f", which points to {response.headers.get('location')},"
        raise CloudStackAnswerInvalid(
            message=f"{answered} to {command}, which is no answer of CloudStack's API",
            metadata=metadata,
        )


def _never_sent(exc: requests.RequestException) -> bool:
    if isinstance(exc, _NEVER_SENT):
        return True
    # requests wraps urllib3's MaxRetryError, whose reason is what failed.
    reason = getattr(exc.args[0], "reason", None) if exc.args else None
    return isinstance(reason, NewConnectionError)


def _envelope(response: requests.Response) -> Row | None:
    """The object in the one envelope, ``<command>response`` or ``errorresponse``, or None."""
    try:
        document = response.json()
    except ValueError:
        return None
    if not isinstance(document, Mapping):
        return None
    for name, value in document.items():
        if name.lower().endswith("response") and isinstance(value, Mapping):
            return value
    return None
