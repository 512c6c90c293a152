"""YAML text to plain values that know where they were written.

Scalars stay the text the user wrote: the model, not YAML, decides what is a number or a boolean.
So a VM called ``007``, ``no`` or ``1e3`` keeps its name, and dates are not converted behind our
back. Only a plain empty scalar, ``~`` and ``null`` become None.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import yaml

from services.config.nodes import MappingNode, Node, ScalarNode, SequenceNode, broken, compose
from services.config.problems import ConfigError, Problem

__all__ = ["Document", "FieldPath", "Mark", "Value", "field_name", "parse_document", "read_text"]

Value: TypeAlias = "str | list[Value] | dict[str, Value] | None"
FieldPath: TypeAlias = tuple[str | int, ...]

# A spec of 1,000 VMs has about 50,000 nodes. Aliases can multiply a few lines into millions.
_NODE_LIMIT = 1_000_000
# The deepest key of either file has seven levels.
_DEPTH_LIMIT = 32
_SURROGATES = re.compile(
    r"(?<!\\)((?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)
_PLAIN_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in ("str", "int", "float", "bool", "null", "timestamp", "map", "seq")
)
# libyaml reads a fleet's spec ten times faster than the pure Python parser. Only its events are
# used: its composer recurses in C, and deep nesting in a request's body would crash the process.
_Loader: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)


@dataclass(frozen=True, slots=True)
class Mark:
    """A position in a file; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: its value, and the position of every key and value by field path."""

    source: str
    value: Value
    value_marks: Mapping[FieldPath, Mark]
    key_marks: Mapping[FieldPath, Mark]

    def mark(self, path: FieldPath, *, key: bool = False) -> Mark:
        """The position of `path`, or of its nearest enclosing value that was written."""
        if key and path in self.key_marks:
            return self.key_marks[path]
        while path and path not in self.value_marks:
            path = path[:-1]
        return self.value_marks.get(path, Mark(1, 1))

    def problem(
        self, path: FieldPath, message: str, *, value: str = "", hint: str = "", key: bool = False
    ) -> Problem:
        """A problem at `path`; `key` points at the key instead of its value."""
        mark = self.mark(path, key=key)
        return Problem(
            source=self.source,
            line=mark.line,
            column=mark.column,
            field=field_name(path),
            value=value,
            message=message,
            hint=hint,
        )


def field_name(path: FieldPath) -> str:
    """``("vms", 1, "vm", "name")`` as ``vms[1].vm.name``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_text(path: Path) -> str:
    """A file's text; a byte order mark is dropped.

    Raises ConfigError when the file is missing, not readable or not UTF-8.
    """
    source = str(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError as exc:
        hint = f"Give the right path; the current directory is {os.getcwd()}."
        raise _whole_file(source, "there is no such file", hint) from exc
    except OSError as exc:
        reason = (exc.strerror or type(exc).__name__).lower()
        raise _whole_file(source, f"cannot be read: {reason}") from exc
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        before = data[: exc.start]
        problem = Problem(
            source=source,
            line=before.count(b"\n") + 1,
            column=exc.start - before.rfind(b"\n"),
            field="",
            value=f"byte 0x{data[exc.start]:02x}",
            message=f"byte 0x{data[exc.start]:02x} is not UTF-8",
            hint="Save the file with the encoding UTF-8.",
        )
        raise ConfigError((problem,)) from exc


def parse_document(text: str, source: str) -> Document:
    """Parse one YAML (or JSON) document; `source` is the name used in problems.

    Raises ConfigError for broken YAML, duplicated keys, tags other than YAML's own, and an empty
    file.
    """
    if text.lstrip().startswith(("{", "[")):
        # JSON escapes characters beyond the basic plane as pairs of surrogates; libyaml does not.
        text = _SURROGATES.sub(lambda pair: pair[1] + json.loads(f'"{pair[2]}"'), text)
    builder = _Builder(source)
    try:
        tree = compose(yaml.parse(text, Loader=_Loader))
        value = None if tree is None else builder.build(tree, ())
    except yaml.YAMLError as exc:
        raise ConfigError((_syntax_problem(exc, source),)) from exc
    if builder.problems:
        raise ConfigError(tuple(builder.problems))
    if value is None or value == {}:
        raise _whole_file(
            source, "the file is empty", "`v2c config example list` names examples to begin with."
        )
    return Document(source, value, builder.value_marks, builder.key_marks)


def _whole_file(source: str, message: str, hint: str = "") -> ConfigError:
    return ConfigError((Problem(source, 0, 0, "", "", message, hint),))


def _syntax_problem(exc: yaml.YAMLError, source: str) -> Problem:
    """Never quotes the text around the error: it may hold a password."""
    mark = getattr(exc, "problem_mark", None) or getattr(exc, "context_mark", None)
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    reason = getattr(exc, "problem", None) or getattr(exc, "reason", None) or "broken"
    hint = "Put values with : # { [ or quotes in them between quotes; indent with spaces."
    if "\\t" in reason or "cannot start any token" in reason:
        reason = "a tab, or another character that no value can start with"
        hint = "Indent with spaces, and put the value between quotes if it starts with @ or `."
    elif "single document" in reason or "another document" in reason:
        reason = "a second document starts here"
        hint = "Remove the line with ---; several VMs go in one list under vms:."
    return Problem(source, line, column, "", "", f"is not valid YAML: {reason}", hint)


class _Builder:
    """Turns a node tree into values, noting positions and problems on the way."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self.value_marks: dict[FieldPath, Mark] = {}
        self.key_marks: dict[FieldPath, Mark] = {}
        self._count = 0

    def build(self, node: Node, path: FieldPath) -> Value:
        self._count += 1
        if self._count > _NODE_LIMIT or len(path) > _DEPTH_LIMIT:
            raise broken("its aliases expand without end", node.start)
        self.value_marks[path] = _mark(node)
        if node.tag is not None and node.tag not in _TAGS:
            self._problem(node, path, f"has the unknown tag {node.tag}", "Remove the tag.")
            return None
        if isinstance(node, ScalarNode):
            return None if node.plain and node.text in _PLAIN_NULLS else node.text
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        return [self.build(item, (*path, index)) for index, item in enumerate(node.items)]

    def _mapping(self, node: MappingNode, path: FieldPath) -> dict[str, Value]:
        own: dict[str, Value] = {}
        merged: dict[str, Value] = {}
        for key_node, value_node in node.pairs:
            if not isinstance(key_node, ScalarNode):
                self._problem(key_node, path, "has a key that is not text", "Write key: value.")
                continue
            key, key_path = key_node.text, (*path, key_node.text)
            if key == "<<" and key_node.plain:
                for source in _merge_sources(value_node):
                    for name, value in self._mapping(source, path).items():
                        merged.setdefault(name, value)
                continue
            if key in own:
                first = self.key_marks[key_path].line
                self._problem(
                    key_node, key_path, f"is given twice, first in line {first}", "Keep one."
                )
                continue
            self.key_marks[key_path] = _mark(key_node)
            own[key] = self.build(value_node, key_path)
        return merged | own

    def _problem(self, node: Node, path: FieldPath, message: str, hint: str) -> None:
        mark = _mark(node)
        self.problems.append(
            Problem(self.source, mark.line, mark.column, field_name(path), "", message, hint)
        )


def _merge_sources(node: Node) -> Iterator[MappingNode]:
    """The mappings behind ``<<: *a`` or ``<<: [*a, *b]``; earlier ones win."""
    for candidate in node.items if isinstance(node, SequenceNode) else [node]:
        if not isinstance(candidate, MappingNode):
            raise broken("<<: needs a mapping", candidate.start)
        yield candidate


def _mark(node: Node) -> Mark:
    return Mark(node.start.line + 1, node.start.column + 1)
