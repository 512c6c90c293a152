"""A YAML document's nodes, composed from the parser's events with a limit on their depth."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, cast

import yaml

__all__ = ["MappingNode", "Node", "ScalarNode", "SequenceNode", "broken", "compose"]

# The deepest key of either file has seven levels; a request's body may hold anything.
_DEPTH_LIMIT = 32


class Start(Protocol):
    """A position as both parsers, in C and in Python, give it; both count from 0."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class ScalarNode:
    """Text, `plain` when it was written without quotes."""

    start: Start
    tag: str | None
    text: str
    plain: bool


@dataclass(frozen=True, slots=True)
class SequenceNode:
    """A list."""

    start: Start
    tag: str | None
    items: "list[Node]" = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class MappingNode:
    """Pairs of key and value, in order; keys may repeat."""

    start: Start
    tag: str | None
    pairs: "list[tuple[Node, Node]]" = field(default_factory=list)


Node: TypeAlias = ScalarNode | SequenceNode | MappingNode


def compose(events: Iterator[yaml.Event]) -> Node | None:
    """The only document's root, None when there is no document. An alias is its anchor's node.

    Raises yaml.YAMLError for what the parser refuses, for more than one document, for an unknown
    alias, for one inside its own anchor, and for nesting deeper than 32 levels.
    """
    root: Node | None = None
    anchors: dict[str, Node] = {}
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            if root is not None:
                raise _error("expected a single document", event)
            root = _node(next(events), events, anchors, 0)
    return root


def broken(problem: str, start: Start) -> yaml.MarkedYAMLError:
    """An error as the parser raises them."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=cast(yaml.Mark, start))


def _node(
    event: yaml.Event, events: Iterator[yaml.Event], anchors: dict[str, Node], depth: int
) -> Node:
    if depth > _DEPTH_LIMIT:
        raise _error("it is nested too deeply", event)
    if isinstance(event, yaml.AliasEvent):
        if event.anchor not in anchors:
            raise _error("an alias (*name) without its anchor (&name) before it", event)
        return anchors[event.anchor]
    node: Node
    if isinstance(event, yaml.ScalarEvent):
        plain = event.style in {None, ""}
        node = ScalarNode(_start(event), event.tag, event.value, plain)
    elif isinstance(event, yaml.SequenceStartEvent):
        node = SequenceNode(_start(event), event.tag)
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            node.items.append(_node(item, events, anchors, depth + 1))
    elif isinstance(event, yaml.MappingStartEvent):
        node = MappingNode(_start(event), event.tag)
        while not isinstance(item := next(events), yaml.MappingEndEvent):
            key = _node(item, events, anchors, depth + 1)
            node.pairs.append((key, _node(next(events), events, anchors, depth + 1)))
    else:
        raise _error("a value was expected", event)
    if event.anchor is not None:
        anchors[event.anchor] = node
    return node


def _error(problem: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    return broken(problem, _start(event))


def _start(event: yaml.Event) -> Start:
    return cast(Start, event.start_mark)
