"""Host names that CloudStack accepts, made from the names of source VMs."""

from __future__ import annotations

import re
from typing import Final

# CloudStack's NetUtils.verifyDomainNameLabel with its check for host names.
_LIMIT: Final = 63
_FALLBACK: Final = "vm"


def legal_hostname(name: str, suffix: str = "") -> str:
    """A legal host name (1-63 of ``A-Za-z0-9-``, no digit first, no hyphen first or last).

    Other characters become hyphens; ``vm-`` is put before a leading digit. `suffix` is kept whole
    at the end, so that machines with the same name get different host names.
    """
    tail = _label(suffix)
    tail = f"-{tail}" if tail else ""
    head = _label(name) or _FALLBACK
    if head[0].isdigit():
        head = f"{_FALLBACK}-{head}"
    head = head[: _LIMIT - len(tail)].rstrip("-")
    return f"{head}{tail}"


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[: _LIMIT - len(_FALLBACK) - 1]
