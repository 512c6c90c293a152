"""Checks the connection to CloudStack, and that the account may import there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.cloudstack_agent.client.api import CloudStackApi, child, children, text
from services.cloudstack_agent.errors import CloudStackCommandMissing


@dataclass(frozen=True)
class Endpoint:
    """The API's URL, and CloudStack's version, for example ``4.22.1.0``."""

    endpoint: str
    version: str


async def check_connection(api: CloudStackApi) -> Endpoint:
    """Check with signed calls that CloudStack answers and that the account may import.

    Raises the error of a call that failed, and CloudStackCommandMissing if this account or this
    version has no importVm: otherwise it would show only after the source VM was shut down.
    """
    version = await server_version(api)
    if not children(await api.call("listApis", {"name": "importVm"}), "api"):
        raise CloudStackCommandMissing(
            message=f"importVm is not available to this account of CloudStack {version}",
            metadata={"command": "importVm", "version": version},
        )
    return Endpoint(api.endpoint, version)


async def server_version(api: CloudStackApi) -> str:
    """The version that CloudStack reports."""
    answer = await api.call("listCapabilities", {})
    return text(child(answer, "capability"), "cloudstackversion")


def version_numbers(version: str) -> tuple[int, ...]:
    """``(4, 22, 1, 0)`` for ``4.22.1.0-SNAPSHOT``; empty for a text that is no version."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
