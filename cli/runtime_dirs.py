"""Migrations' folders on this host, for when nothing runs that could be asked."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.errors import CommandError

__all__ = ["RuntimeDir", "find_runtime_dirs", "leave_marker", "runtime_dirs"]


@dataclass(frozen=True, slots=True)
class RuntimeDir:
    """A VM's folder and the content of its state.json."""

    path: Path
    state: dict[str, Any]


def runtime_dirs(control_dir: Path) -> Iterator[RuntimeDir]:
    """The folders of all VMs that can be read."""
    for file in sorted(control_dir.glob("*/state.json")):
        try:
            state = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # Another program's file, or one that this user may not read.
        if isinstance(state, dict) and "vm_name" in state:
            yield RuntimeDir(file.parent, state)


def find_runtime_dirs(control_dir: Path, name: str, moref: str | None) -> Iterator[RuntimeDir]:
    """The folders of the VM called `name`, or with the moref if one is given."""
    for found in runtime_dirs(control_dir):
        state = found.state
        if state.get("vm_moref") == moref if moref else state.get("vm_name") == name:
            yield found


def leave_marker(control_dir: Path, name: str, moref: str | None, marker: str) -> bool:
    """Leave an operator's request (``FINALIZE`` …) in the VM's folder, for the next orchestrator.

    False when there is no such folder. Raises CommandError when several VMs have the name, or
    when the folder cannot be written.
    """
    found = list(find_runtime_dirs(control_dir, name, moref))
    if not found:
        return False
    if len(found) > 1:
        morefs = ", ".join(str(item.state.get("vm_moref", "")) for item in found)
        raise CommandError(
            f"{len(found)} VMs are named {name!r}", f"Choose one with --vm-id: {morefs}."
        )
    try:
        (found[0].path / marker).touch()
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise CommandError(f"{found[0].path} cannot be written: {reason}") from exc
    return True
