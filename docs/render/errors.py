"""docs/reference/errors.md: every reason, its meaning and what to do about it.

All of it is read from objects: a class of `ServiceError` for each reason, grouped by the service
that defines it, and the kinds of findings.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from dataclasses import dataclass

import gateway
import services
from services.kit.errors import RemoteError
from services.kit.failure import ServiceError, error_classes
from services.vmware_agent.findings import FindingKind

__all__ = ["Entry", "entries", "page"]

_INTRO = """\
<!-- Rendered by `make docs` from the code; edit the classes there. -->
# Errors

Every error has a *reason* in capitals. It is stable: scripts decide by it, and it is in the
CLI's JSON, in REST answers, in gRPC's `google.rpc.ErrorInfo` (domain `v2c`), in a migration's
`error` and in the logs. The message and the recovery are for people and may change.

- **retry** shows whether the same call may simply be repeated; a single error may differ from the
  usual value here. A migration repeats retryable errors by itself, nine times within about twenty
  minutes, then it is `failed` and `v2c retry` continues it at its stage.
- The failure of a transfer, a conversion or a job is reported in that resource, and in the `error`
  of a migration that fails because of it, with the same reason.
- The **recovery** is the usual one; an error whose next step depends on what was found has its own
  hint beside its message.
- A 404 or 405 of the REST API itself has the HTTP status as its reason: NOT_FOUND,
  METHOD_NOT_ALLOWED.
"""
FINDINGS = "findings"
_SECTIONS = (
    ("orchestrator", "Orchestrator", ""),
    ("vmware_agent", "VMware agent", ""),
    (
        FINDINGS,
        "Findings of the VMware agent",
        "What the check of a machine before its migration may find. An *error* fails the migration "
        "with VM_NOT_MIGRATABLE and the finding in its metadata; the others are audit events.",
    ),
    ("disk_agent", "Disk agent", ""),
    ("cloudstack_agent", "CloudStack agent", ""),
    ("gateway", "REST API", "Errors of the services behind it pass through with their reason."),
    ("kit", "All services", ""),
    ("config", "Configuration", ""),
)
# Run by other programs: one needs nbdkit's interpreter, the others start a process' work.
_NOT_IMPORTED = ("services.disk_agent.vddk.plugin",)
# Names that begin no sentence with a capital.
_LOWER_CASE = frozenset({"mount", "nbdkit"})


@dataclass(frozen=True)
class Entry:
    """One row of the page. `service` is its section; `kind` is a code, HTTP status or severity."""

    reason: str
    service: str
    kind: str
    retry: str
    meaning: str
    hint: str


@functools.cache
def entries() -> tuple[Entry, ...]:
    """All reasons, by name."""
    _import_all()
    found = [_of_class(kind) for kind in error_classes() if _service(kind) is not None]
    found += [
        Entry(kind.name, FINDINGS, kind.severity.name.lower(), "no", kind.meaning, kind.hint)
        for kind in FindingKind
    ]
    return tuple(sorted([*found, _remote()], key=lambda entry: entry.reason))


def page() -> str:
    """The page. Raises ValueError for a service that has no section."""
    unknown = {entry.service for entry in entries()} - {service for service, _, _ in _SECTIONS}
    if unknown:
        raise ValueError(f"no section for {', '.join(sorted(unknown))}")
    parts = [_INTRO]
    for service, title, text in _SECTIONS:
        rows = [entry for entry in entries() if entry.service == service]
        if rows:
            parts.append(_section(service, title, text, rows))
    return "\n".join(parts)


def _import_all() -> None:
    """Import whatever may define an error; a class exists only then."""
    for package in (services, gateway):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name not in _NOT_IMPORTED and not module.name.endswith(".__main__"):
                importlib.import_module(module.name)


def _service(kind: type[ServiceError]) -> str | None:
    """`services.kit.tls` is kit's, `gateway.edge` gateway's; a test's own errors are nobody's."""
    match kind.__module__.split("."):
        case ["services", service, *_]:
            return service
        case ["gateway", *_]:
            return "gateway"
        case _:
            return None


def _of_class(kind: type[ServiceError]) -> Entry:
    status: object = getattr(kind, "http_status", None)
    return Entry(
        reason=kind.reason,
        service=_service(kind) or "",
        kind=kind.code.name if status is None else f"HTTP {status}",
        retry="yes" if kind.retryable else "no",
        # A class without a docstring of its own must not show its base's.
        meaning=_first_paragraph(vars(kind).get("__doc__")),
        hint=kind.hint,
    )


def _remote() -> Entry:
    """The one row of errors that gRPC reports: their reason is made from its code."""
    hints = [f"{code.name}: {hint}" for code, hint in RemoteError.TRANSPORT_HINTS.items()]
    return Entry(
        reason="REMOTE_‹CODE›",
        service="kit",
        kind="‹CODE›",
        retry=", ".join(sorted(code.name for code in RemoteError.TRANSIENT)),
        meaning=_first_paragraph(RemoteError.without_details.__doc__),
        hint="; ".join(hints).format(peer="the service named"),
    )


def _first_paragraph(text: object) -> str:
    return " ".join(str(text or "").split("\n\n")[0].split())


def _section(service: str, title: str, text: str, rows: list[Entry]) -> str:
    kind = "severity" if service == FINDINGS else "code"
    lines = [f"## {title}", ""]
    if text:
        lines += [text, ""]
    lines += [f"| reason | {kind} | retry | meaning | recovery |", "|---|---|---|---|---|"]
    lines += [_row(entry) for entry in rows]
    return "\n".join(lines) + "\n"


def _row(entry: Entry) -> str:
    cells = (
        entry.reason,
        entry.kind,
        entry.retry,
        _sentence(entry.meaning),
        _sentence(entry.hint),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _sentence(text: str) -> str:
    text = text.replace("``", "`").strip()
    if not text:
        return ""
    word = text.split()[0]
    if word.isalpha() and word.islower() and word not in _LOWER_CASE:
        text = text[0].upper() + text[1:]
    return text + ("" if text.endswith((".", "…")) else ".")
