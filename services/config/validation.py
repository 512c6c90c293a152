"""Document to model: pydantic's errors become problems with a line, a value and a next step."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from services.config.document import Document, FieldPath, Value
from services.config.fields import FAULT
from services.config.problems import ConfigError, Problem
from services.config.secret import Secret

__all__ = ["validate"]

_Model = TypeVar("_Model", bound=BaseModel)
# How alike an unknown key and a valid one must be for the valid one to be suggested.
_SIMILARITY = 0.6
_TEXT_LIMIT = 60

# What pydantic expected, by its error types.
_EXPECTED: Mapping[str, str] = {
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "string_type": "expected text",
    "path_type": "expected a path",
    "datetime_type": "expected a date and time",
    "dict_type": "expected keys and values",
    "mapping_type": "expected keys and values",
    "model_type": "expected keys and values",
    "model_attributes_type": "expected keys and values",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "is_instance_of": "expected text",
}
# Another field's error already explains why these could not be computed.
_FOLLOW_UPS = frozenset({"default_factory_not_called"})


def validate(
    model: type[_Model], document: Document, value: Value, prefix: FieldPath, base_dir: Path
) -> _Model:
    """Validate `value`, which stands at `prefix` in `document`.

    Relative paths are taken from `base_dir`. Raises ConfigError with every problem found.
    """
    context = {"base_dir": base_dir, "source": document.source}
    try:
        return model.model_validate(value, context=context)
    except ValidationError as exc:
        problems = tuple(
            _problem(model, document, prefix, error)
            for error in exc.errors(include_url=False)
            if error["type"] not in _FOLLOW_UPS
        )
        raise ConfigError(problems) from None


def _problem(
    model: type[BaseModel], document: Document, prefix: FieldPath, error: ErrorDetails
) -> Problem:
    loc = tuple(part for part in error["loc"] if part != "[key]")
    kind, context = error["type"], error.get("ctx", {})
    path = (*prefix, *loc)
    if kind == "extra_forbidden":
        return document.problem(path, "is not a known key", hint=_suggest(model, loc), key=True)
    if kind == "missing":
        return document.problem(path, "is required and not given", hint=_required_hint(loc))
    if kind == FAULT:
        at = (*loc, *context["at"])
        shown = "" if context["at"] else _shown(model, loc, error["input"])
        message = f"{shown} {context['message']}" if shown else context["message"]
        return document.problem((*prefix, *at), message, value=shown, hint=context["hint"])
    shown = _shown(model, loc, error["input"])
    message = _EXPECTED.get(kind) or _limits(kind, context) or error["msg"].lower()
    return document.problem(path, f"{shown or 'this value'}: {message}", value=shown)


def _limits(kind: str, context: Mapping[str, Any]) -> str:
    match kind:
        case "literal_error":
            return f"expected {context['expected'].replace(chr(39), '')}"
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "greater_than":
            return f"must be more than {context['gt']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
    return ""


def _shown(model: type[BaseModel], loc: FieldPath, value: object) -> str:
    """The value as a person may see it: its kind if it is no scalar, nothing if it is secret."""
    if isinstance(value, Mapping):
        return "keys and values"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "a list"
    annotation = _annotation_at(model, loc)
    if annotation is None or _is_secret(annotation) or _model_in(annotation) is not None:
        return "text" if isinstance(value, str) else ""
    text = str(value)
    return repr(text if len(text) <= _TEXT_LIMIT else text[: _TEXT_LIMIT - 1] + "…")


def _required_hint(loc: FieldPath) -> str:
    if loc and loc[-1] == "networkid":
        return "Give the id of the CloudStack network this NIC is to be connected to."
    return ""


def _suggest(model: type[BaseModel], loc: FieldPath) -> str:
    """The nearest valid key here, the section where the key is valid, or all valid keys."""
    key = str(loc[-1])
    here = _model_at(model, loc[:-1])
    valid = list(_fields(here)) if here else []
    near = difflib.get_close_matches(key.lower(), valid, n=1, cutoff=_SIMILARITY)
    sections = _sections_with(model, key)
    if near and (near[0] == key.lower() or not sections):
        return f"Did you mean {near[0]}?"
    if sections:
        return f"{key} is a key of {' and of '.join(sections)}: move it there."
    return f"Valid keys here: {', '.join(valid)}."


def _sections_with(model: type[BaseModel], key: str) -> list[str]:
    """Where else `key` is valid, as dotted paths below `model`."""
    return [".".join(path) for path, fields in _sections(model, ()) if key in fields and path]


def _sections(
    model: type[BaseModel], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    yield path, list(_fields(model))
    for name, info in _fields(model).items():
        nested = _model_in(info.annotation)
        if nested is not None and get_origin(info.annotation) is not Mapping:
            yield from _sections(nested, (*path, name))


def _model_at(model: type[BaseModel], loc: FieldPath) -> type[BaseModel] | None:
    return _model_in(_annotation_at(model, loc)) if loc else model


def _annotation_at(model: type[BaseModel], loc: FieldPath) -> object | None:
    """The annotation of the field at `loc`, through sections and mappings."""
    annotation: object = model
    for part in loc:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            info = _fields(annotation).get(str(part))
            annotation = info.annotation if info else None
        elif annotation is not None:
            # A mapping's key or a list's index: continue with what it holds.
            annotation = _model_in(annotation) or _item_of(annotation)
        if annotation is None:
            return None
        nested = _model_in(annotation)
        if nested is not None and not _is_container(annotation):
            annotation = nested
    return annotation


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields by the names that users write."""
    return {info.alias or name: info for name, info in model.model_fields.items()}


def _is_container(annotation: object) -> bool:
    origin = get_origin(annotation)
    return isinstance(origin, type) and issubclass(origin, Mapping | tuple)


def _item_of(annotation: object) -> object | None:
    return get_args(annotation)[0] if get_origin(annotation) is tuple else None


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The section inside ``X``, ``X | None``, ``Annotated[X, …]`` or ``Mapping[str, X]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        arguments = arguments[:1]
    for argument in arguments:
        found = _model_in(argument)
        if found is not None:
            return found
    return None


def _is_secret(annotation: object) -> bool:
    if isinstance(annotation, type):
        return issubclass(annotation, Secret)
    return any(_is_secret(argument) for argument in get_args(annotation))
