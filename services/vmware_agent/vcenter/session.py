"""The session with vCenter: login, threads, expiry, and a pause after a refused login.

pyVmomi blocks, so every call runs in a small thread pool, whose threads share the stub's connection
pool. Objects of a session (stub, references, views) must not leave one call of `run`, because
after the session expires that call is repeated with a new one.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from pyVmomi import vim, vmodl

from services.kit.failure import ServiceError
from services.vmware_agent.errors import VCenterLoginFailed, VCenterUnreachable
from services.vmware_agent.ports import Clock
from services.vmware_agent.vcenter.faults import (
    CONNECTION_ERRORS,
    connection_failed,
    fault_text,
    translate,
)
from services.vmware_agent.vcenter.trust import Trust, establish
from services.vmware_agent.vcenter.vmomi import Stub, connect_stub, service_content, touch

T = TypeVar("T")

_log = structlog.stdlib.get_logger(__name__)

# vCenter SSO locks an account after five failed logins within three minutes by default.
REFUSED_LOGIN_PAUSE_SECONDS = 60.0
# vCenter ends a session after 30 idle minutes by default.
KEEP_ALIVE_SECONDS = 300.0
# QueryChangedDiskAreas of a large, fragmented disk takes minutes.
_REQUEST_TIMEOUT_SECONDS = 300.0
# A vCenter that runs completes a handshake in far less.
CONNECT_TIMEOUT_SECONDS = 15.0
_LOGOUT_SECONDS = 3.0
_THREADS = 8


@dataclass(frozen=True)
class Endpoint:
    """vCenter's address, the account, and which certificate is trusted."""

    host: str
    user: str
    password: str = field(repr=False)
    port: int = 443
    trust: Trust = field(default_factory=Trust)

    @property
    def address(self) -> str:
        """host:port, for messages."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Connection:
    """One logged-in session, as `Session.run` passes it to a call."""

    stub: Stub
    content: vim.ServiceInstanceContent
    thumbprint_sha1: str


class Session:
    """A login to one vCenter, made at the first call and renewed when it expires."""

    def __init__(
        self,
        endpoint: Endpoint,
        clock: Clock,
        *,
        connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
    ) -> None:
        self.endpoint = endpoint
        self._clock = clock
        self._connect_timeout_seconds = connect_timeout_seconds
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="vcenter")
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._closing = False
        self._attempts = 0
        self._failed: ServiceError | None = None
        self._refused: tuple[float, vmodl.MethodFault] | None = None

    async def run(self, action: str, call: Callable[[Connection], T], *, repeat: bool = True) -> T:
        """Run `call` in a thread with a valid session, and translate the errors it raises.

        `action` describes the call in error messages ("reading VM vm-7"). If the session has
        expired, it is renewed once and the call repeated, which is safe because vCenter refused it.
        If the connection breaks, the call is repeated once only with `repeat`, which is for calls
        that change nothing. A ServiceError raised by `call` is not translated.

        Raises VCenterUnreachable, VCenterUntrusted, VCenterLoginFailed and the errors of
        `translate`.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._call, action, call, repeat)

    async def keep_alive(self) -> None:
        """Use the session every few minutes, until cancelled, so that it does not expire."""
        while True:
            await self._clock.sleep(KEEP_ALIVE_SECONDS)
            if self._connection is None:
                continue
            try:
                await self.run(
                    "keeping the session alive", lambda connection: touch(connection.stub)
                )
            except ServiceError as error:
                _log.warning(
                    "vCenter did not answer the keep-alive",
                    action="vcenter.keep_alive",
                    reason=error.reason,
                    error=error.message,
                )

    async def close(self) -> None:
        """Abort running calls, log out and end the threads. No call may follow.

        A call that vCenter does not answer would otherwise delay the process's end for minutes.
        """
        self._closing = True
        connection, self._connection = self._connection, None
        if connection is not None:
            loop = asyncio.get_running_loop()
            connection.stub.abort()
            leaving = loop.run_in_executor(self._executor, _log_out, connection)
            done, _ = await asyncio.wait([leaving], timeout=_LOGOUT_SECONDS)
            if not done:
                connection.stub.abort()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _call(self, action: str, call: Callable[[Connection], T], repeat: bool) -> T:
        connection = self._live(stale=None)
        renewed = False
        while True:
            try:
                return call(connection)
            except vim.fault.NotAuthenticated as fault:
                if renewed:
                    raise self._login_failed(fault) from fault
                renewed = True
                connection = self._live(stale=connection)
            except vmodl.MethodFault as fault:
                raise translate(fault, action) from fault
            except CONNECTION_ERRORS as error:
                if not repeat or self._closing:
                    raise connection_failed(error, self.endpoint.address) from error
                repeat = False

    def _live(self, stale: Connection | None) -> Connection:
        """The session that all threads share; a new one if there is none or it is `stale`.

        If a thread's login fails, the threads that waited for it raise the same error: if each
        tried by itself, one after another, the last would wait for all their timeouts.
        """
        attempts = self._attempts
        with self._lock:
            if self._closing:
                raise VCenterUnreachable(message="the session with vCenter is being closed")
            if self._connection is not None and self._connection is not stale:
                return self._connection
            if self._attempts > attempts and self._failed is not None:
                raise self._failed
            if stale is not None:
                _log.info("the vCenter session expired", action="vcenter.session_expired")
                stale.stub.retire()
                self._connection = None
            self._attempts += 1
            self._failed = None
            try:
                connection = self._log_in()
            except ServiceError as error:
                self._failed = error
                raise
            if self._closing:
                connection.stub.abort()  # The call that needs it fails, like the running ones.
            else:
                self._connection = connection
            return connection

    def _log_in(self) -> Connection:
        if self._refused is not None:
            until, fault = self._refused
            if self._clock.monotonic() < until:
                raise self._login_failed(fault) from fault
            self._refused = None
        endpoint = self.endpoint
        if endpoint.trust.insecure:
            _log.warning(
                "the certificate of vCenter is not verified: vcenter.insecure is set",
                action="vcenter.insecure",
                host=endpoint.address,
            )
        trusted = establish(
            endpoint.host, endpoint.port, endpoint.trust, self._connect_timeout_seconds
        )
        try:
            stub = connect_stub(
                endpoint.host,
                endpoint.port,
                trusted.context,
                connect_timeout_seconds=self._connect_timeout_seconds,
                request_timeout_seconds=_REQUEST_TIMEOUT_SECONDS,
                pool_size=_THREADS,
            )
            with contextlib.ExitStack() as stack:
                stack.callback(stub.retire)
                content = service_content(stub)
                if content.sessionManager is None:
                    raise VCenterLoginFailed(message=f"{endpoint.address} has no session manager")
                content.sessionManager.Login(endpoint.user, endpoint.password, None)
                stack.pop_all()
        except vim.fault.InvalidLogin as fault:
            self._refused = (self._clock.monotonic() + REFUSED_LOGIN_PAUSE_SECONDS, fault)
            raise self._login_failed(fault) from fault
        except vim.fault.NoPermission as fault:
            raise self._login_failed(fault) from fault
        except vmodl.MethodFault as fault:
            raise translate(fault, f"logging in to {endpoint.address}") from fault
        except CONNECTION_ERRORS as error:
            raise connection_failed(error, endpoint.address) from error
        _log.info("logged in to vCenter", action="vcenter.login", host=endpoint.address)
        return Connection(stub, content, trusted.thumbprint_sha1)

    def _login_failed(self, fault: vmodl.MethodFault) -> VCenterLoginFailed:
        endpoint = self.endpoint
        return VCenterLoginFailed(
            message=f"vCenter {endpoint.address} refuses the login of vcenter.user "
            f"{endpoint.user!r}: {fault_text(fault)}",
            metadata={"host": endpoint.address, "user": endpoint.user},
        )


def _log_out(connection: Connection) -> None:
    # The session may have expired; vCenter also ends idle sessions by itself.
    with contextlib.suppress(vmodl.MethodFault, *CONNECTION_ERRORS):
        if connection.content.sessionManager is not None:
            connection.content.sessionManager.Logout()
    connection.stub.retire()
