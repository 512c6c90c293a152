"""The line of nbdkit's stderr in which our plugin reports libvixDiskLib's error number.

A line of its own, so that no text of the library, and no name in one, can be taken for it.
"""

from __future__ import annotations

import re

_LINE = re.compile(r"v2c-vddk: VixDiskLib_\w+ returned VixError (\d{1,5})")


def error_line(function: str, number: int) -> str:
    """The line for the low 16 bits of the VixError that a function returned."""
    return f"v2c-vddk: VixDiskLib_{function} returned VixError {number}"


def reported_error(line: str) -> int | None:
    """The number if the whole line is such a line."""
    found = _LINE.fullmatch(line)
    return int(found[1]) if found else None
