"""Translates CloudStack's error codes and texts to errors of this agent.

Codes are those of CloudStack's ``ApiErrorCode``; the texts were taken from the sources of
CloudStack 4.22 (``UnmanagedVMsManagerImpl``, ``VolumeImportUnmanageManagerImpl``,
``AsyncJobManagerImpl``). If a later version changes a text, a less specific error is raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.cloudstack_agent.errors import (
    CloudStackCapacityExhausted,
    CloudStackCommandMissing,
    CloudStackFailed,
    CloudStackLimitReached,
    CloudStackLoginFailed,
    CloudStackParameterRefused,
    CloudStackPermissionDenied,
    CloudStackRestarted,
    CloudStackUnavailable,
    DiskInUse,
    DiskInvalid,
    DiskLocked,
)
from services.kit.failure import ServiceError

_BY_TEXT: Final[tuple[tuple[str, type[ServiceError]], ...]] = (
    ("disk image is already in use", DiskInUse),
    ("volume is already managed by cloudstack", DiskInUse),
    ("locked volume cannot be imported", DiskLocked),
    ("encrypted volume cannot be imported", DiskInvalid),
    ("volume with backing file cannot be imported", DiskInvalid),
    ("disk not found or is invalid", DiskInvalid),
    ("cannot find volume on storage pool", DiskInvalid),
    ("volume cannot be imported due to", DiskInvalid),
    ("suitable deployment destination not found", CloudStackCapacityExhausted),
    ("insufficient address capacity", CloudStackCapacityExhausted),
    ("management server restart", CloudStackRestarted),
)
_BY_CODE: Final[Mapping[int, type[ServiceError]]] = {
    401: CloudStackLoginFailed,
    429: CloudStackUnavailable,
    503: CloudStackUnavailable,
    430: CloudStackParameterRefused,
    431: CloudStackParameterRefused,
    432: CloudStackCommandMissing,
    531: CloudStackPermissionDenied,
    532: CloudStackLimitReached,
    533: CloudStackCapacityExhausted,
    # A resource that is busy, and a network that is not up yet.
    536: CloudStackFailed,
    537: CloudStackFailed,
}
_PASSING_CODES: Final = frozenset({536, 537})


def refusal(command: str, code: int, error_text: str) -> ServiceError:
    """The error for a code and text with which CloudStack refused `command` or ended its job."""
    lowered = error_text.lower()
    kind = next((error for part, error in _BY_TEXT if part in lowered), None)
    retryable = True if kind is None and code in _PASSING_CODES else None
    kind = kind or _BY_CODE.get(code, CloudStackFailed)
    return kind(
        message=f"CloudStack refused {command}: {error_text or 'no reason given'} ({code})",
        metadata={"command": command, "errorcode": str(code), "errortext": error_text},
        retryable=retryable,
    )
