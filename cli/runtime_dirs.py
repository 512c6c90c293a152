"""Migrations' folders on this host, for when nothing runs that could be asked."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["RuntimeDir", "find_runtime_dirs"]


@dataclass(frozen=True, slots=True)
class RuntimeDir:
    """A VM's folder and the content of its state.json."""

    path: Path
    state: dict[str, Any]


def find_runtime_dirs(control_dir: Path, name: str, moref: str | None) -> Iterator[RuntimeDir]:
    """The folders of the VM called `name`, or with the moref if one is given."""
    for file in sorted(control_dir.glob("*/state.json")):
        try:
            state = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # Not ours to judge: somebody else's file, or one we may not read.
        if not isinstance(state, dict):
            continue
        if state.get("vm_moref") == moref if moref else state.get("vm_name") == name:
            yield RuntimeDir(file.parent, state)
