"""The line on nbdkit's stderr in which v2c's plugin reports libvixDiskLib's error number.

It is a line of its own, so that no text of the library, and no name in such a text, can be taken
for it.
"""

from __future__ import annotations

import re

_LINE = re.compile(r"v2c-vddk: VixDiskLib_\w+ returned VixError (\d{1,5})")


def error_line(function: str, number: int) -> str:
    """The line for a number, the low 16 bits of the VixError that a function returned."""
    return f"v2c-vddk: VixDiskLib_{function} returned VixError {number}"


def reported_error(line: str) -> int | None:
    """The number if the line was made by `error_line`; None for any other line."""
    found = _LINE.fullmatch(line)
    return int(found[1]) if found else None
