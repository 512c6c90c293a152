"""A machine's runtime directory: state.json and spec.yaml.

The database is the truth; state.json is an export for scripts. An operator's marker files lie in
the same directory, see `orchestrator.markers`.
"""

import json
import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

__all__ = ["RuntimeDir", "directory_name"]

# A file name may have 255 bytes on every Linux file system; the moref and state.json's
# temporary name need some of them.
_NAME_BYTES = 180


def directory_name(vm_name: str, moref: str) -> str:
    """``<vm>_<moref>``; characters that a file name cannot have become "_"."""
    safe = re.sub(r"[/\x00-\x1f]", "_", vm_name).strip() or "vm"
    if safe.startswith("."):
        safe = "_" + safe[1:]
    encoded = safe.encode()[:_NAME_BYTES].decode(errors="ignore")
    return f"{encoded}_{moref}"


@dataclass(frozen=True)
class RuntimeDir:
    """One machine's directory."""

    path: Path

    def create(self) -> None:
        """Create the directory for this user only: specs and logs name internal systems."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write_state(self, state: dict[str, Any]) -> None:
        """Rewrite state.json atomically; readers see the old one or the new one."""
        self._write("state.json", json.dumps(state, indent=1, default=_text, ensure_ascii=False))

    def write_spec(self, text: str) -> None:
        """Rewrite spec.yaml atomically."""
        self._write("spec.yaml", text)

    def _write(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}.new"
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path / name)


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be written to state.json")
