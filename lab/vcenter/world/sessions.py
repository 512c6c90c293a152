"""Login sessions, identified by their cookie."""

from __future__ import annotations

import hmac
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from pyVmomi import vim
from pyVmomi.VmomiSupport import ManagedObject

from lab.scenario import UserSpec
from lab.vcenter.world.vm_state import now

READ_ONLY_PRIVILEGES = frozenset({"System.Anonymous", "System.View", "System.Read"})


@dataclass
class Session:
    """A logged-in session. Views, filters and pages belong to it and are removed with it."""

    key: str
    user: UserSpec
    login_time: datetime
    last_active: float
    last_active_time: datetime
    address: str
    user_agent: str
    calls: int = 0
    objects: dict[str, object] = field(default_factory=dict)
    """Views, property filters, collectors and page tokens by moref or token."""
    numbers: dict[str, int] = field(default_factory=dict)

    def allows(self, privilege: str) -> bool:
        """Whether the user has the privilege."""
        return not self.user.read_only or privilege in READ_ONLY_PRIVILEGES

    def name(self, prefix: str) -> str:
        """A new moref or token for an object of this session."""
        number = self.numbers.get(prefix, 0) + 1
        self.numbers[prefix] = number
        return f"session[{self.key}]{prefix}-{number}"

    def as_vim(self) -> vim.UserSession:
        """The session as vSphere shows it."""
        return vim.UserSession(
            key=self.key,
            userName=self.user.name,
            fullName=self.user.name,
            loginTime=self.login_time,
            lastActiveTime=self.last_active_time,
            locale="en",
            messageLocale="en",
            extensionSession=False,
            ipAddress=self.address,
            userAgent=self.user_agent,
            callCount=self.calls,
        )


class Sessions:
    """All sessions. ``idle_seconds`` is called at each use, so that the limit can change."""

    def __init__(
        self,
        users: tuple[UserSpec, ...],
        clock: Callable[[], float],
        idle_seconds: Callable[[], float],
    ) -> None:
        self._users = {user.name.lower(): user for user in users}
        self._clock = clock
        self._idle_seconds = idle_seconds
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def login(self, name: str, password: str, address: str, user_agent: str) -> Session:
        """Begin a session. Raises vim.fault.InvalidLogin."""
        user = self._users.get(name.lower())
        given, wanted = password.encode(), (user.password if user else "").encode()
        if user is None or not hmac.compare_digest(given, wanted):
            raise vim.fault.InvalidLogin(
                msg="Cannot complete login due to an incorrect user name or password."
            )
        session = Session(
            key=str(uuid.uuid4()),
            user=user,
            login_time=now(),
            last_active=self._clock(),
            last_active_time=now(),
            address=address,
            user_agent=user_agent,
        )
        with self._lock:
            self._sessions[session.key] = session
        return session

    def use(self, key: str | None) -> Session | None:
        """The session with this key, whose idle time starts again; None if there is none."""
        with self._lock:
            session = self._sessions.get(key) if key else None
            if session is None:
                return None
            if self._clock() - session.last_active > self._idle_seconds():
                del self._sessions[session.key]
                return None
            session.last_active = self._clock()
            session.last_active_time = now()
            session.calls += 1
            return session

    def end(self, key: str) -> bool:
        """Log out. False if there was no such session."""
        with self._lock:
            return self._sessions.pop(key, None) is not None

    def expire_all(self) -> int:
        """End every session, as a restart of vCenter's services does; returns how many."""
        with self._lock:
            count = len(self._sessions)
            self._sessions.clear()
            return count

    def all(self) -> list[Session]:
        """The sessions that have not ended."""
        with self._lock:
            return list(self._sessions.values())


def not_authenticated(
    reference: ManagedObject, privilege: str = "System.View"
) -> vim.fault.NotAuthenticated:
    """The fault for a call without a session."""
    return vim.fault.NotAuthenticated(
        object=reference, privilegeId=privilege, msg="The session is not authenticated."
    )
