"""Small JSON files that survive a crash at any instant."""

import json
import os
from pathlib import Path

from services.disk_agent.host.errors import StateDamaged


def write_state(path: Path, content: object) -> None:
    """Replace a JSON file atomically and durably; creates its directory."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_state(path: Path) -> object:
    """The content of a JSON file, None when there is no file. Raises StateDamaged."""
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StateDamaged(
            message=f"{path} does not hold valid JSON", metadata={"path": str(path)}
        ) from error
    return content
