"""The registry of the API's methods, and the calls that handlers receive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lab.vcenter.methods.tasks import Tasks
from lab.vcenter.world.sessions import Session, Sessions, not_authenticated
from lab.vcenter.world.vm_state import VmRecord
from lab.vcenter.world.world import World


@dataclass
class Call:
    """One request, with its session and the simulator's parts, as a handler receives it."""

    world: World
    tasks: Tasks
    sessions: Sessions
    session: Session | None
    method: str
    this: Any
    params: Any
    version: str
    address: str = ""
    user_agent: str = ""
    new_cookie: str | None = None
    """Set by a login: the session key for the response's cookie."""

    @property
    def vm(self) -> VmRecord:
        """The VM this call is about. Raises vmodl.fault.ManagedObjectNotFound."""
        return self.world.vm(self.this)

    @property
    def login(self) -> Session:
        """The caller's session. Raises vim.fault.NotAuthenticated."""
        if self.session is None:
            raise not_authenticated(self.this)
        return self.session

    @property
    def user(self) -> str:
        """Name of the caller."""
        return self.session.user.name if self.session else ""


Handler = Callable[[Call], Any]


@dataclass
class Methods:
    """Handlers by WSDL name of the method."""

    handlers: dict[str, Handler] = field(default_factory=dict)

    def handle(self, *names: str) -> Callable[[Handler], Handler]:
        """Decorator: the function answers these methods."""

        def register(handler: Handler) -> Handler:
            for name in names:
                self.handlers[name] = handler
            return handler

        return register

    def include(self, other: Methods) -> None:
        """Add the handlers of another module."""
        self.handlers.update(other.handlers)
