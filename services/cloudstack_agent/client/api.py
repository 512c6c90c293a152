"""The port to CloudStack's API, and functions that read values from its answers.

A row is a JSON object. CloudStack's types vary (a number may be text), so `text`, `number`, `flag`
and `child` convert a value to the type that is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol, TypeAlias

from services.cloudstack_agent.errors import CloudStackAnswerInvalid

Row: TypeAlias = Mapping[str, object]
Parameters: TypeAlias = Mapping[str, str]

# CloudStack refuses larger pages (431), unless its default.page.size was changed.
PAGE_SIZE: Final = 500


class CloudStackApi(Protocol):
    """CloudStack's API. ``list…`` and ``query…`` commands are repeated on a broken connection."""

    @property
    def endpoint(self) -> str:
        """The API's URL."""
        ...

    async def call(self, command: str, parameters: Parameters) -> Row:
        """Call one command; returns the object in the answer's envelope.

        Raises one of `errors`, for a refusal by CloudStack or for a call without an answer.
        """
        ...


async def list_rows(
    api: CloudStackApi, command: str, key: str, parameters: Parameters | None = None
) -> list[Row]:
    """All rows of a list command, page by page. `key` is the answer's list."""
    rows: list[Row] = []
    page = 1
    while True:
        answer = await api.call(
            command, {**(parameters or {}), "page": str(page), "pagesize": str(PAGE_SIZE)}
        )
        found = children(answer, key)
        rows.extend(found)
        if len(found) < PAGE_SIZE:
            return rows
        page += 1


def text(row: Row, key: str) -> str:
    """A value as text; empty when it is missing."""
    value = row.get(key)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def number(row: Row, key: str, default: int = 0) -> int:
    """An integer, given as number or text; `default` if it is missing or is not an integer."""
    try:
        return int(text(row, key))
    except ValueError:
        return default


def flag(row: Row, key: str) -> bool:
    """A boolean, given as boolean or text."""
    return text(row, key).lower() == "true"


def child(row: Row, key: str) -> Row:
    """A nested object; empty when it is missing."""
    value = row.get(key)
    return value if isinstance(value, Mapping) else {}


def children(row: Row, key: str) -> Sequence[Row]:
    """A nested list of objects; empty when it is missing. Raises CloudStackAnswerInvalid."""
    value = row.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        raise CloudStackAnswerInvalid(
            message=f"CloudStack's answer has no list of objects in {key!r}"
        )
    return value
