"""How the simulator behaves, changeable while it runs (control operation ``set``)."""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass, fields
from difflib import get_close_matches


class SettingError(ValueError):
    """An unknown setting or an invalid value; the message names valid ones."""


@dataclass
class Settings:
    """Behaviour of the whole vCenter. Times are seconds."""

    task_seconds: float = 0.02
    """Seconds for which a task shows progress before it takes effect."""
    remove_snapshot_seconds: float | None = None
    """The same for removals of snapshots, if it differs."""
    call_seconds: float = 0.0
    """Seconds by which every answer is delayed, as by a busy or distant vCenter."""
    session_idle_seconds: float = 1800.0
    """vCenter's default idle limit."""
    cbt_page_areas: int = 2000
    """The maximum of areas in one QueryChangedDiskAreas answer."""
    cbt_page_bytes: int = 0
    """The maximum of bytes that such an answer covers; 0 = to the end. Small values give empty
    pages."""
    cbt_empty_pages: bool = False
    """Each gap before a changed area is answered as a page of its own, without areas."""
    max_page_objects: int = 100
    """The maximum of objects in one RetrievePropertiesEx page; callers may request fewer."""
    guest_stop_seconds: float = 30.0
    """Seconds a guest may take to shut down before it is powered off."""


VM_SETTINGS: dict[str, tuple[str, ...]] = {
    "shutdown": ("normal", "ignore", "slow"),
    "quiesce": ("normal", "application-fault", "filesystem-fault"),
    "consolidation": ("normal", "fails"),
}
"""Behaviour of one VM and its possible values, the first being the default.

- shutdown: ``ignore`` never reacts to ShutdownGuest, ``slow`` takes five seconds more;
- quiesce: a snapshot with quiesce fails as Windows writers or file systems do;
- consolidation: files of removed snapshots stay, ``runtime.consolidationNeeded`` becomes true.
"""

SLOW_SHUTDOWN_SECONDS = 5.0


def change(settings: Settings, name: str, value: object) -> None:
    """Set one setting of the vCenter. Raises SettingError."""
    hints = typing.get_type_hints(Settings)
    if name not in hints:
        raise SettingError(unknown("setting", name, [*hints, *VM_SETTINGS]))
    setattr(settings, name, _converted(name, value, hints[name]))


def check_vm_setting(name: str, value: str) -> None:
    """Raises SettingError unless ``value`` is valid for the VM setting ``name``."""
    if name not in VM_SETTINGS:
        raise SettingError(unknown("setting of a VM", name, list(VM_SETTINGS)))
    if value not in VM_SETTINGS[name]:
        raise SettingError(unknown(f"value of {name}", value, list(VM_SETTINGS[name])))


def as_dict(settings: Settings) -> dict[str, object]:
    """All settings by name."""
    return {field.name: getattr(settings, field.name) for field in fields(settings)}


def unknown(what: str, name: str, valid: list[str]) -> str:
    """The message for an unknown ``name``, with the nearest valid one."""
    near = get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(valid))}"
    return f"unknown {what} {name!r}: {hint}"


def _converted(name: str, value: object, kind: object) -> object:
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None and type(None) in options:
        return None
    text = str(value).lower()
    if bool in options:
        if text in ("true", "1", "yes", "on"):
            return True
        if text in ("false", "0", "no", "off"):
            return False
        raise SettingError(f"{name} is true or false, not {value!r}")
    try:
        number = int(text) if int in options else float(text)
    except ValueError as error:
        raise SettingError(f"{name} is a number, not {value!r}") from error
    if number < 0:
        raise SettingError(f"{name} cannot be negative")
    return number
