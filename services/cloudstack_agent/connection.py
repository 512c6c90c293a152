"""Which CloudStack this agent talks to, and whether it may import there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.cloudstack_agent.client.api import CloudStackApi, child, children, text
from services.cloudstack_agent.errors import CloudStackCommandMissing


@dataclass(frozen=True)
class Endpoint:
    """The API's URL as used, and the version, for example ``4.22.1.0``."""

    endpoint: str
    version: str


async def check_connection(api: CloudStackApi) -> Endpoint:
    """Make signed calls that any account may make.

    Raises why they did not work, and CloudStackCommandMissing when this account, or this
    version, has no importVm: better now than after the source VM was shut down.
    """
    version = await server_version(api)
    if not children(await api.call("listApis", {"name": "importVm"}), "api"):
        raise CloudStackCommandMissing(
            message=f"importVm is not open to this account of CloudStack {version}",
            metadata={"command": "importVm", "version": version},
        )
    return Endpoint(api.endpoint, version)


async def server_version(api: CloudStackApi) -> str:
    """CloudStack's version as it reports it."""
    answer = await api.call("listCapabilities", {})
    return text(child(answer, "capability"), "cloudstackversion")


def version_numbers(version: str) -> tuple[int, ...]:
    """``(4, 22, 1, 0)`` of ``4.22.1.0-SNAPSHOT``; empty for what is no version."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
