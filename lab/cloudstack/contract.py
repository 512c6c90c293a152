"""The commands this server knows and the check of a request's parameters against them.

``contract.json`` is taken from the metadata of CloudStack 4.22.1: for each
command its parameters (type, required, maximal length), its response fields,
its list key and whether it is asynchronous.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from lab.cloudstack.errors import UNSUPPORTED_ACTION, ApiError, parameter_error

ParameterType: TypeAlias = Literal[
    "uuid", "string", "boolean", "integer", "long", "map", "list", "date"
]
Value: TypeAlias = str | int | bool | tuple[str, ...] | dict[str, str]

# Parameters of every request, which no command declares.
_ENVELOPE: Final = frozenset(
    {"apikey", "signature", "signatureversion", "expires", "command", "response"}
)
_CUSTOM_JOB_ID: Final = "customjobid"
_MAP_KEY: Final = re.compile(r"^(?P<name>[^\[\]]+)\[(?P<index>\d+)\]\.(?P<key>[^\[\]]+)$")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a command; ``length`` is in characters."""

    name: str
    type: ParameterType
    required: bool
    length: int


@dataclass(frozen=True)
class Command:
    """One command of the API."""

    name: str
    is_async: bool
    envelope: str
    list_key: str
    parameters: Mapping[str, Parameter]
    response: frozenset[str]


@dataclass(frozen=True)
class Request:
    """A validated request: parameters by lower-case name, typed."""

    command: Command
    values: Mapping[str, Value]
    custom_job_id: str = ""

    def text(self, name: str, default: str = "") -> str:
        """A string or uuid parameter, or ``default`` when it was not given."""
        value = self.values.get(name, default)
        return value if isinstance(value, str) else str(value)

    def number(self, name: str) -> int | None:
        """An integer or long parameter."""
        value = self.values.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def flag(self, name: str) -> bool:
        """A boolean parameter; false when it was not given."""
        return self.values.get(name) is True

    def mapping(self, name: str) -> dict[str, str]:
        """The entries under a map parameter's index 0, the only one that import reads."""
        value = self.values.get(name)
        return dict(value) if isinstance(value, dict) else {}

    def texts(self, name: str) -> tuple[str, ...]:
        """A list parameter."""
        value = self.values.get(name)
        return value if isinstance(value, tuple) else ()


@functools.cache
def load_contract() -> Mapping[str, Command]:
    """All known commands by lower-case name."""
    source = Path(__file__).with_name("contract.json")
    return {
        name.lower(): Command(
            name=name,
            is_async=entry["async"],
            envelope=entry["envelope"],
            list_key=entry.get("list_key", ""),
            parameters={
                parameter.lower(): Parameter(parameter, *spec)
                for parameter, spec in entry["params"].items()
            },
            response=frozenset(entry["response"]),
        )
        for name, entry in json.loads(source.read_text()).items()
    }


def find_command(contract: Mapping[str, Command], name: str) -> Command:
    """The command called ``name``, in any case.

    Raises:
        ApiError: 432 for a command that this server does not have.
    """
    try:
        return contract[name.lower()]
    except KeyError as error:
        raise ApiError(
            UNSUPPORTED_ACTION,
            f"The given command '{name}' either does not exist, is not available"
            " for user, or not available from ip address.",
        ) from error


def parse_request(
    command: Command, parameters: Mapping[str, str], *, strict: bool = True
) -> Request:
    """Check and convert the raw parameters of one request.

    The real server ignores parameters that it does not know, so a misspelt
    parameter would show only in production. ``strict`` refuses them.

    Raises:
        ApiError: 431 naming the offending parameter.
    """
    values: dict[str, Value] = {}
    custom_job_id = ""
    for raw_name, value in parameters.items():
        name = raw_name.lower()
        if name in _ENVELOPE or not value:
            continue
        if name == _CUSTOM_JOB_ID and command.is_async:
            custom_job_id = value
            continue
        entry = _MAP_KEY.match(raw_name)
        parameter = command.parameters.get((entry["name"] if entry else raw_name).lower())
        if parameter is None:
            if strict:
                raise parameter_error(
                    f"Unable to execute API command {command.name.lower()}: unknown parameter"
                    f" {raw_name} (refused by this server's strict mode)"
                )
            continue
        _store(command, values, parameter, entry, raw_name, value)
    for parameter in command.parameters.values():
        if parameter.required and parameter.name.lower() not in values:
            raise parameter_error(
                f"Unable to execute API command {command.name.lower()} due to missing"
                f" parameter {parameter.name}"
            )
    return Request(command, values, custom_job_id)


def _store(
    command: Command,
    values: dict[str, Value],
    parameter: Parameter,
    entry: re.Match[str] | None,
    raw_name: str,
    value: str,
) -> None:
    if (parameter.type == "map") != (entry is not None):
        raise parameter_error(
            f"Unable to execute API command {command.name.lower()} due to invalid value."
            f" Parameter {raw_name} must be given as"
            f" {parameter.name}{'[0].key' if parameter.type == 'map' else ''}"
        )
    if len(value) > parameter.length:
        raise parameter_error(
            f"Value greater than max allowed length {parameter.length} for param: {parameter.name}"
        )
    name = parameter.name.lower()
    if entry is None:
        values[name] = _convert(command, parameter, value)
        return
    # As on the real server, the import commands ignore entries under other indices.
    if entry["index"] == "0":
        collected = values.setdefault(name, {})
        if isinstance(collected, dict):
            collected[entry["key"]] = value


def _convert(command: Command, parameter: Parameter, value: str) -> Value:
    if parameter.type in ("integer", "long"):
        try:
            return int(value)
        except ValueError as error:
            raise _invalid(command, parameter, value) from error
    if parameter.type == "boolean":
        if value.lower() not in ("true", "false"):
            raise _invalid(command, parameter, value)
        return value.lower() == "true"
    if parameter.type == "list":
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _invalid(command: Command, parameter: Parameter, value: str) -> ApiError:
    return parameter_error(
        f"Unable to execute API command {command.name.lower()} due to invalid value."
        f" Invalid parameter {parameter.name} value={value}"
    )
