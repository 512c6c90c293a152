"""Finds the cause of a failed conversion in the output of virt-v2v-in-place.

Its exit status is 1 for every failure, so its messages decide: see `failures.CAUSES`.
"""

import re
from collections.abc import Sequence

from services.disk_agent.conversions.failures import CAUSES, ConversionFailure

_EL9 = re.compile(r"(Enterprise Linux|CentOS Stream|Rocky|Alma|Oracle)\D{0,30}9\b", re.IGNORECASE)
_ERROR_LINE = re.compile(r"^virt-v2v(?:-in-place)?: error: (.+)$", re.MULTILINE)
# guestfsd's errors are left out: most of them only report that a file being probed for is missing.
_FATAL_LINE = re.compile(
    r"^(?:(?:virt-v2v[\w-]*|supermin|qemu-[\w-]+|nbdkit): .*(?:error|fail).*"
    r"|libguestfs: error: .+)$",
    re.MULTILINE | re.IGNORECASE,
)
_MESSAGE_LIMIT = 600


def classify(
    errors: Sequence[str], log_tail: str, *, guest_os: str, version: str, status: int
) -> ConversionFailure:
    """The failure for a run of virt-v2v that ended with a ``status`` other than 0.

    ``errors`` are its error messages, ``log_tail`` the end of its log. The messages are searched
    for a cause first, because the log also has errors that did not matter.
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
    """``2.3.4`` as a tuple of numbers, for comparing; empty for a text without numbers."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def el9_warning(guest_os: str, version: str) -> str | None:
    """The warning for an EL 9 guest if this version of virt-v2v does not convert it reliably."""
    if _EL9.search(guest_os) and version_key(version) < (2, 3, 4):
        return f"virt-v2v {version} does not convert EL 9 guests reliably; 2.3.4 does"
    return None


def _join(message: str, details: str) -> str:
    return f"{message}: {details}"[:_MESSAGE_LIMIT] if details else message


def _metadata(guest_os: str, version: str, status: int) -> dict[str, str]:
    found = {"guest_os": guest_os, "virt_v2v_version": version, "status": str(status)}
    return {key: value for key, value in found.items() if value}
