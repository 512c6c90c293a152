"""Sizes, rates, times and numbers as text, the same in every display."""

__all__ = ["count", "duration", "rate", "size"]

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def size(value: float) -> str:
    """``159 MB``: decimal units, three significant digits."""
    unit = 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1000
        unit += 1
    if unit == 0 or value >= 99.95:
        return f"{value:.0f} {_UNITS[unit]}"
    return f"{value:.1f} {_UNITS[unit]}"


def rate(bytes_per_second: float) -> str:
    """``84.1 MB/s``; nothing for zero."""
    return f"{size(bytes_per_second)}/s" if bytes_per_second > 0 else ""


def duration(seconds: float) -> str:
    """``0:42``, ``12:05`` or ``1:02:03``."""
    whole = max(0, int(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours}:{minutes:02}:{whole % 60:02}"
    return f"{minutes}:{whole % 60:02}"


def count(number: int, singular: str) -> str:
    """``1 VM``, ``2 VMs``."""
    return f"{number} {singular}" if number == 1 else f"{number} {singular}{_plural(singular)}"


def _plural(singular: str) -> str:
    return "es" if singular.endswith("s") else "s"
