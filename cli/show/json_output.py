"""Messages as JSON: names as in state.json, numbers as numbers, times in ISO 8601."""

import json
from typing import Any, TextIO, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from v2c.orchestrator.v1 import orchestrator_pb2 as pb

__all__ = ["JsonDisplay", "as_dict"]

_ENUM_PREFIXES = {"Stage": "STAGE_", "State": "STATE_"}


def as_dict(message: Message) -> dict[str, Any]:
    """A message as plain values. A field of its own presence that is unset is None."""
    return {
        field.name: _field(message, cast(FieldDescriptor, field))
        for field in message.DESCRIPTOR.fields
    }


def _field(message: Message, field: FieldDescriptor) -> Any:
    value = getattr(message, field.name)
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return [_value(item, field) for item in value]
    if entry is not None and not message.HasField(field.name):
        return None
    return _value(value, field)


def _value(value: Any, field: FieldDescriptor) -> Any:
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if isinstance(value, Message):
        return as_dict(value)
    if field.enum_type is not None:
        name: str = field.enum_type.values_by_number[value].name
        return name.removeprefix(_ENUM_PREFIXES.get(field.enum_type.name, "")).lower()
    return value


class JsonDisplay:
    """One JSON object per line: every snapshot, every note, and the end."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, migration: pb.Migration) -> None:
        """A snapshot, as ``{"type": "migration", …}``."""
        self._line({"type": "migration", **as_dict(migration)})

    def note(self, text: str) -> None:
        """Something a person should know, as ``{"type": "note", "text": …}``."""
        self._line({"type": "note", "text": text})

    def end(self, migrations: list[pb.Migration]) -> None:
        """``{"type": "end", "ok": …}``: whether every VM is done."""
        ok = all(migration.state == pb.STATE_DONE for migration in migrations)
        states = {migration.vm_name: as_dict(migration)["state"] for migration in migrations}
        self._line({"type": "end", "ok": ok, "states": states})

    def _line(self, value: dict[str, Any]) -> None:
        print(json.dumps(value, ensure_ascii=False), file=self._out, flush=True)
