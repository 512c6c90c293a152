"""The control socket's operations: faults, settings, and reading the state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from lab.cloudstack.server import ManagementServer

# A handler takes the fields of one JSON request and returns those of its answer.
Handler: TypeAlias = Callable[..., dict[str, Any]]


def handlers(server: ManagementServer) -> Mapping[str, Handler]:
    """The operations by name.

    ``fault`` (command, kind, code, text, seconds, times, skip), ``clear_faults``,
    ``faults``, ``set`` (table, id, values: fields of a row; or job_latency_seconds, or
    strict), ``restart`` (fail running jobs), ``status`` (counts), ``state`` (all tables).
    """

    def fault(command: str, kind: str, **options: Any) -> dict[str, Any]:
        return {"id": server.faults.add(command, kind, **options).id}

    def clear_faults() -> dict[str, Any]:
        server.faults.clear()
        return {}

    def faults() -> dict[str, Any]:
        return {"faults": server.faults.listing()}

    def change(
        table: str = "",
        id: str = "",
        values: Mapping[str, Any] | None = None,
        job_latency_seconds: float | None = None,
        strict: bool | None = None,
    ) -> dict[str, Any]:
        if job_latency_seconds is not None:
            server.jobs.latency_seconds = job_latency_seconds
        if strict is not None:
            server.strict = strict
        if not table:
            return {}
        store = server.world.store
        with store.transaction():
            row = {**(store.find(table, id) or {"id": id}), **(values or {})}
            store.put(table, row)
        return {"row": row}

    def restart() -> dict[str, Any]:
        server.jobs.fail_running()
        return {}

    def status() -> dict[str, Any]:
        tables = server.world.store.snapshot()
        return {
            "requests": dict(server.requests),
            "counts": {name: len(rows) for name, rows in tables.items()},
        }

    def state() -> dict[str, Any]:
        return {"tables": server.world.store.snapshot()}

    return {
        "fault": fault,
        "clear_faults": clear_faults,
        "faults": faults,
        "set": change,
        "restart": restart,
        "status": status,
        "state": state,
    }
