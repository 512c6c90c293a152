"""Finds the cause of a failed conversion in what virt-v2v-in-place reported.

Its exit status is 1 for everything, so the texts decide: see `failures.CAUSES`.
"""

import re
from collections.abc import Sequence

from services.disk_agent.conversions.failures import CAUSES, ConversionFailure

_EL9 = re.compile(r"(Enterprise Linux|CentOS Stream|Rocky|Alma|Oracle)\D{0,30}9\b", re.IGNORECASE)
_ERROR_LINE = re.compile(r"^virt-v2v(?:-in-place)?: error: (.+)$", re.MULTILINE)
# guestfsd's errors are left out: most of them are answers to "is this there?".
_FATAL_LINE = re.compile(
    r"^(?:(?:virt-v2v[\w-]*|supermin|qemu-[\w-]+|nbdkit): .*(?:error|fail).*"
    r"|libguestfs: error: .+)$",
    re.MULTILINE | re.IGNORECASE,
)
_MESSAGE_LIMIT = 600


def classify(
    errors: Sequence[str], log_tail: str, *, guest_os: str, version: str, status: int
) -> ConversionFailure:
    """The failure for a virt-v2v that ended with ``status`` other than 0.

    ``errors`` are its error messages, ``log_tail`` the end of its log; causes are looked for in
    the messages first, because a log shows many errors that did not matter.
    """
    messages = " ".join(errors) or " ".join(_ERROR_LINE.findall(log_tail))
    metadata = _metadata(guest_os, version, status)
    for text in (messages, "\n".join(_FATAL_LINE.findall(log_tail))):
        for cause in CAUSES:
            if text and cause.matches(text):
                return cause(_join(cause.summary, messages), metadata=metadata)
    hint = None
    if _EL9.search(guest_os) and version_key(version) < (2, 3, 4):
        hint = f"virt-v2v {version} cannot convert EL 9 guests: install 2.3.4 or later"
    killed = f" (killed by signal {status - 128})" if status > 128 else ""
    return ConversionFailure(
        _join(f"virt-v2v-in-place failed with status {status}{killed}", messages),
        metadata=metadata,
        hint=hint,
    )


def version_key(version: str) -> tuple[int, ...]:
    """``2.3.4`` as numbers that compare; empty for a text without."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def el9_warning(guest_os: str, version: str) -> str | None:
    """What to warn of when an EL 9 guest meets a virt-v2v that cannot convert it."""
    if _EL9.search(guest_os) and version_key(version) < (2, 3, 4):
        return f"virt-v2v {version} does not convert EL 9 guests reliably; 2.3.4 does"
    return None


def _join(message: str, details: str) -> str:
    return f"{message}: {details}"[:_MESSAGE_LIMIT] if details else message


def _metadata(guest_os: str, version: str, status: int) -> dict[str, str]:
    found = {"guest_os": guest_os, "virt_v2v_version": version, "status": str(status)}
    return {key: value for key, value in found.items() if value}
