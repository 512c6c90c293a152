"""What virt-v2v-in-place reports while it works: JSON lines of messages, and its debug log."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

_STEP_LIMIT = 200
_TAIL_BYTES = 64 << 10
_NO_DRIVERS = "does not have virtio drivers"
_NEEDS_UEFI = "requires UEFI"
_CONVERTING = re.compile(r"^Converting (?P<product>.+) to run on KVM$")
# Debug output of the inspection, printed before the conversion starts.
_INSPECTED = re.compile(r"^i_(?P<name>distro|product_name) = (?P<value>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Reported:
    """What virt-v2v has reported so far."""

    step: str = ""
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    guest_os: str = ""
    requires_uefi: bool = False
    drivers_missing: bool = False


def with_line(reported: Reported, line: str) -> Reported:
    """Add one line of ``--machine-readable`` output; other lines change nothing.

    ``{"message": "…", "timestamp": "…", "type": "message|info|warning|error|progress"}``, see
    virt-v2v(1), "Machine readable output".
    """
    try:
        entry = json.loads(line)
    except ValueError:
        return reported
    if not isinstance(entry, dict) or not isinstance(entry.get("message"), str):
        return reported
    message = entry["message"].strip()
    kind = entry.get("type")
    if kind == "message":
        found = _CONVERTING.match(message)
        guest_os = found["product"] if found and not reported.guest_os else reported.guest_os
        return replace(reported, step=message[:_STEP_LIMIT], guest_os=guest_os)
    if kind == "warning":
        return replace(reported, warnings=(*reported.warnings, message))
    if kind == "error":
        return replace(reported, errors=(*reported.errors, message))
    if kind == "info":
        return replace(
            reported,
            requires_uefi=reported.requires_uefi or _NEEDS_UEFI in message,
            drivers_missing=reported.drivers_missing or _NO_DRIVERS in message,
        )
    return reported


class MessageFile:
    """Reads the file of messages while it grows, whole lines only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> list[str]:
        """The lines completed since the last call; none before the file exists. Blocks."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                fresh = file.read()
        except FileNotFoundError:
            return []
        complete = fresh[: fresh.rfind(b"\n") + 1]
        self._offset += len(complete)
        return complete.decode(errors="replace").splitlines()


def log_tail(path: Path) -> str:
    """The last 64 KiB of a log. Blocks; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - _TAIL_BYTES, 0))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def inspected_guest(path: Path) -> str:
    """The guest's name from the inspection in the debug log, empty when it has none.

    For Debian virt-v2v prints only "12.11": the distribution is put before a bare number.
    """
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    found = {match["name"]: match["value"].strip() for match in _INSPECTED.finditer(text)}
    product, distro = found.get("product_name", ""), found.get("distro", "")
    if re.search(r"[A-Za-z]", product) and product != "unknown":
        return product
    return f"{distro.capitalize()} {product}".strip()
