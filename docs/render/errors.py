"""docs/errors.md: every reason, its meaning and what to do about it."""

from __future__ import annotations

from docs.render.reasons import Reason, collect

__all__ = ["page"]

_INTRO = """\
<!-- Rendered by `make docs` from the code; edit the classes and tables there. -->
# Errors

Every error has a *reason* in capitals. It is stable: scripts decide by it, and it stands in the
CLI's JSON, in REST answers, in gRPC's `google.rpc.ErrorInfo` (domain `v2c`), in a migration's
`error` and in the logs. The message and the recovery are for people and may change.

- **retry** says whether the same call may simply be repeated; a single error may differ from the
  usual value here. A migration repeats retryable errors by itself, nine times within about twenty
  minutes, then it is `failed` and `v2c retry` takes it up at its stage.
- A code of `—` belongs to a transfer or conversion: it is told in that resource, and a migration
  that fails for it reports the same reason with the code ABORTED.
- ‹words in angles› are filled in when the error is raised. Where no recovery is given, the
  message says all there is.
- `REMOTE_‹CODE›`, such as REMOTE_UNAVAILABLE, is a gRPC error that did not come from a service of
  v2c: nobody listened at the address, or something between the two answered. A 404 or 405 of the
  REST API itself has the HTTP status as its reason: NOT_FOUND, METHOD_NOT_ALLOWED.
"""
_SECTIONS = (
    ("orchestrator", "Orchestrator", ""),
    ("vmware_agent", "VMware agent", ""),
    (
        "vmware_agent:findings",
        "Findings of the VMware agent",
        "What checking a machine before its migration may find. An *error* fails the migration "
        "with VM_NOT_MIGRATABLE and the finding in its metadata; the others are audit events.",
    ),
    ("disk_agent", "Disk agent", ""),
    ("cloudstack_agent", "CloudStack agent", ""),
    ("gateway", "REST API", "Errors of the services behind it pass through with their reason."),
    ("kit", "All services", ""),
    ("config", "Configuration", ""),
)
# Names that begin no sentence with a capital.
_LOWER_CASE = frozenset({"mount", "nbdkit"})


def page() -> str:
    """The page. Raises ValueError for a service that has no section."""
    reasons = collect()
    unknown = {r.service for r in reasons} - {service for service, _, _ in _SECTIONS}
    if unknown:
        raise ValueError(f"no section for {', '.join(sorted(unknown))}")
    parts = [_INTRO]
    for service, title, text in _SECTIONS:
        rows = [r for r in reasons if r.service == service]
        if rows:
            parts.append(_section(title, text, rows))
    return "\n".join(parts)


def _section(title: str, text: str, rows: list[Reason]) -> str:
    first = "severity" if title.startswith("Findings") else "code"
    lines = [f"## {title}", ""]
    if text:
        lines += [text, ""]
    lines += [f"| reason | {first} | retry | meaning | recovery |", "|---|---|---|---|---|"]
    lines += [_row(reason) for reason in rows]
    return "\n".join(lines) + "\n"


def _row(reason: Reason) -> str:
    cells = (
        reason.name,
        reason.code or "—",
        "yes" if reason.retryable else "no",
        _sentence(reason.meaning),
        _sentence(reason.hint),
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
