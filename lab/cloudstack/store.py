"""The server's tables: JSON rows in memory, written atomically after each change."""

from __future__ import annotations

import copy
import json
import os
import secrets
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

# A row is one JSON object of the API; its values are what a response carries.
Row: TypeAlias = dict[str, Any]
Tables: TypeAlias = dict[str, dict[str, Row]]


def now_text() -> str:
    """The current time as CloudStack writes it, e.g. ``2026-07-01T12:00:00+0000``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S%z")


def new_id() -> str:
    """A fresh entity or job id."""
    return str(uuid.uuid4())


class Store:
    """Tables of rows by id, kept in ``directory/state.json``.

    ``transaction`` serialises threads. When the outermost one ends, the file is
    replaced; when it raises, the tables are restored.
    """

    def __init__(self, directory: Path, seed: Mapping[str, Mapping[str, Row]]) -> None:
        self._directory = directory
        self._path = directory / "state.json"
        self._lock = threading.RLock()
        self._depth = 0
        directory.mkdir(parents=True, exist_ok=True)
        self._tables: Tables = {name: dict(rows) for name, rows in seed.items()}
        self._saved = ""
        if self._path.exists():
            self._saved = self._path.read_text()
            self._tables = json.loads(self._saved)
        else:
            self._save()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Lock the tables; save them at the end, or restore them on an error."""
        with self._lock:
            self._depth += 1
            try:
                yield
            except BaseException:
                if self._depth == 1:
                    self._tables = json.loads(self._saved)
                raise
            else:
                if self._depth == 1:
                    self._save()
            finally:
                self._depth -= 1

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Lock the tables, so that no job changes a row meanwhile."""
        with self._lock:
            yield

    def rows(self, table: str) -> list[Row]:
        """All rows of ``table`` in the order of their creation."""
        with self._lock:
            return list(self._tables.get(table, {}).values())

    def find(self, table: str, row_id: str) -> Row | None:
        """The row with ``row_id``, or None. Change it only inside a transaction."""
        with self._lock:
            return self._tables.get(table, {}).get(row_id)

    def put(self, table: str, row: Row) -> Row:
        """Insert or replace a row by its ``id``."""
        with self.transaction():
            self._tables.setdefault(table, {})[row["id"]] = row
        return row

    def remove(self, table: str, row_id: str) -> None:
        """Remove a row, if it exists."""
        with self.transaction():
            self._tables.get(table, {}).pop(row_id, None)

    def next_number(self, name: str) -> int:
        """The next value of a counter, from 1."""
        with self.transaction():
            row = self._tables.setdefault("counter", {}).setdefault(name, {"id": name, "value": 0})
            row["value"] += 1
            return int(row["value"])

    def snapshot(self) -> Tables:
        """A copy of all tables."""
        with self._lock:
            return copy.deepcopy(self._tables)

    def _save(self) -> None:
        text = json.dumps(self._tables)
        if text != self._saved:
            replace_file(self._path, text)
            self._saved = text


def replace_file(path: Path, text: str, mode: int = 0o644) -> None:
    """Write ``text`` so that a crash leaves the old file or the new one."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_credentials(directory: Path) -> tuple[str, str]:
    """The root admin's API and secret key, made once per lab (``credentials.json``)."""
    path = directory / "credentials.json"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        keys = {"api_key": secrets.token_urlsafe(48), "secret_key": secrets.token_urlsafe(48)}
        replace_file(path, json.dumps(keys), 0o600)
    keys = json.loads(path.read_text())
    return keys["api_key"], keys["secret_key"]
