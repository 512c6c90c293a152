"""Which CloudStack this agent talks to."""

from __future__ import annotations

from dataclasses import dataclass

from services.cloudstack_agent.api import CloudStackApi, child, text


@dataclass(frozen=True)
class Endpoint:
    """The API's URL as used, and the version, for example ``4.22.1.0``."""

    endpoint: str
    version: str


async def check_connection(api: CloudStackApi) -> Endpoint:
    """Make a signed call that any account may make. Raises why it did not work."""
    answer = await api.call("listCapabilities", {})
    return Endpoint(api.endpoint, text(child(answer, "capability"), "cloudstackversion"))
