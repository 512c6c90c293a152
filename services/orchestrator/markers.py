"""Marker files: an operator creates one in a runtime directory to make a request.

They are read when found and removed once the request is recorded or refused.
"""

from pathlib import Path

__all__ = ["MARKERS", "remove_marker", "requests_in"]

# File name -> the request it stands for.
MARKERS = {
    "FINALIZE": "finalize",
    "FINALIZE_NOW": "finalize_now",
    "SHUTDOWN_FORCE": "shutdown_force",
    "SHUTDOWN_MANUAL": "shutdown_manual",
}


def requests_in(directory: Path) -> tuple[str, ...]:
    """The requests whose marker files are in a runtime directory."""
    return tuple(request for name, request in MARKERS.items() if (directory / name).exists())


def remove_marker(directory: Path, request: str) -> None:
    """Remove the marker file of a request; a missing one is not an error."""
    for name, candidate in MARKERS.items():
        if candidate == request:
            (directory / name).unlink(missing_ok=True)
