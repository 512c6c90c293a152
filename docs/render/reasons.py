"""Every error reason in the source code, found by reading it.

The code is parsed, not imported: reasons are given at places where an error is raised as well as
by classes and tables, and no import would find the former.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

__all__ = ["ROOT", "Reason", "collect", "source_files"]

ROOT = Path(__file__).parents[2]
_PACKAGES = ("services", "gateway")
_UPPER_SNAKE = re.compile(r"^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$")
# The roots of the error trees; a failure has no gRPC code of its own.
_ROOTS = ("ServiceError", "TransferFailure")
# Constructors that take a reason as an argument, by the name of that parameter.
_TABLES = {"_cause": "reason", "_Advice": "reason", "Finding": "name", "ApiError": "reason"}


@dataclass(frozen=True)
class Reason:
    """One reason of one service, as an operator meets it."""

    name: str
    service: str
    code: str
    """gRPC status code; "" for a failure that is told in a resource, not by a call."""
    retryable: bool
    meaning: str
    hint: str


@dataclass
class _Class:
    """A class of one of the error trees, with what it inherits filled in."""

    name: str
    service: str
    code: str = ""
    reason: str = ""
    retryable: bool = False
    hint: str = ""
    meaning: str = ""


@dataclass
class _Found:
    """What is known so far; classes by service and name."""

    classes: dict[tuple[str, str], _Class] = field(default_factory=dict)
    reasons: list[Reason] = field(default_factory=list)
    hints: dict[tuple[str, str], list[str]] = field(default_factory=dict)


@functools.cache
def collect(root: Path = ROOT) -> tuple[Reason, ...]:
    """All reasons, by service and name."""
    modules = [(_service(path, root), _parsed(path)) for path in source_files(root)]
    found = _Found()
    pending = [(s, n) for s, tree in modules for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
    while ready := [(s, n) for s, n in pending if _base(found, s, n) is not None]:
        for service, node in ready:
            found.classes[service, node.name] = _class(found, service, node)
        pending = [entry for entry in pending if entry not in ready]
    signatures = _signatures(tree for _, tree in modules)
    for service, tree in modules:
        tables = _literal_tables(tree)
        for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
            _add_call(found, service, call, signatures, tables)
    classes = [_of_class(found, kind) for kind in found.classes.values() if kind.reason]
    return tuple(_merged([*classes, *found.reasons]))


def source_files(root: Path = ROOT) -> Iterator[Path]:
    """The product's modules; the CLI has messages instead of reasons."""
    for package in _PACKAGES:
        yield from sorted((root / package).rglob("*.py"))


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _service(path: Path, root: Path) -> str:
    parts = path.relative_to(root).parts
    return parts[1] if parts[0] == "services" else parts[0]


def _base(found: _Found, service: str, node: ast.ClassDef) -> _Class | None:
    """The base class in an error tree, if it is known already."""
    for base in node.bases:
        if not isinstance(base, ast.Name):
            continue
        if base.id in _ROOTS:
            return _Class(base.id, service)
        for where in (service, "kit"):
            if known := found.classes.get((where, base.id)):
                return known
    return None


def _class(found: _Found, service: str, node: ast.ClassDef) -> _Class:
    base = _base(found, service, node)
    made = replace(base or _Class(node.name, service), name=node.name, service=service)
    made.reason = ""
    for statement in node.body:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
            continue
        match statement.targets[0].id:
            case "code":
                made.code = _code(statement.value)
            case "reason":
                made.reason = _text(statement.value)
            case "retryable":
                made.retryable = _is_true(statement.value)
            case "hint":
                made.hint = _text(statement.value)
    made.meaning = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
    return made


def _of_class(found: _Found, kind: _Class) -> Reason:
    hint = kind.hint
    if not hint and (told := _joined(found.hints.get((kind.service, kind.name), []))):
        hint = f"depending on the message: {told}"
    return Reason(kind.reason, kind.service, kind.code, kind.retryable, kind.meaning, hint)


def _signatures(trees: Iterator[ast.Module]) -> dict[str, list[str]]:
    """The parameters, in order, of the constructors in `_TABLES`."""
    signatures: dict[str, list[str]] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name in _TABLES:
                signatures[node.name] = _constructor(node)
            elif isinstance(node, ast.FunctionDef) and node.name in _TABLES:
                signatures[node.name] = [a.arg for a in node.args.args]
    return signatures


def _constructor(node: ast.ClassDef) -> list[str]:
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return [a.arg for a in statement.args.args[1:]]
    fields = [s.target for s in node.body if isinstance(s, ast.AnnAssign)]
    return [target.id for target in fields if isinstance(target, ast.Name)]


def _literal_tables(tree: ast.Module) -> dict[str, ast.Dict]:
    """Dictionaries of a module, or of its functions, by the name they are assigned to."""
    return {
        node.targets[0].id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Dict)
        and isinstance(node.targets[0], ast.Name)
    }


def _add_call(
    found: _Found,
    service: str,
    node: ast.Call,
    signatures: Mapping[str, Sequence[str]],
    tables: Mapping[str, ast.Dict],
) -> None:
    """Take a reason, or a hint, that is given where an error is made."""
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    arguments = {k.arg: k.value for k in node.keywords if k.arg}
    arguments |= dict(zip(signatures.get(name, ("message",)), node.args, strict=False))
    reasons = _reasons(arguments.get(_TABLES.get(name, "reason")), tables)
    kind = found.classes.get((service, name), _Class(name, service))
    hint = _text(arguments.get("hint"))
    if not reasons:
        if hint and name:
            found.hints.setdefault((service, name), []).append(hint)
        return
    code, meaning = kind.code, _text(arguments.get("message")) or kind.meaning
    if "code" in arguments:
        code = _code(arguments["code"])
    match name:
        case "ApiError":
            code = f"HTTP {_text(arguments.get('http_status'))}"
        case "Finding":
            code = _code(arguments["severity"]).lower()
        case "_Advice":
            words = _text(arguments["pattern"]).replace("?", "").replace("|", ", ")
            meaning = f"The disk cannot be opened, and the library's text has one of: {words}"
    retryable = arguments.get("retryable")
    found.reasons += [
        Reason(
            reason,
            f"{service}:findings" if name == "Finding" else service,
            code,
            _is_true(retryable) if retryable is not None else kind.retryable,
            meaning,
            hint or kind.hint,
        )
        for reason in reasons
    ]


def _reasons(node: ast.expr | None, tables: Mapping[str, ast.Dict]) -> list[str]:
    """The literals in ``"A"``, ``x or "A"``, ``"A" if x else "B"`` and ``table[x]``."""
    if node is None:
        return []
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        node = tables.get(node.value.id, node)
    texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
    return [text for text in texts if isinstance(text, str) and _UPPER_SNAKE.match(text)]


def _code(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else ""


def _is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def _text(node: ast.expr | None) -> str:
    """A literal's text; what is filled in when it is raised is named in ‹ ›."""
    match node:
        case ast.Constant(value=value):
            return str(value)
        case ast.JoinedStr(values=values):
            return "".join(_text(value) for value in values)
        case ast.FormattedValue(value=ast.Name(id=name) | ast.Attribute(attr=name)):
            return f"‹{name.strip('_').replace('_', ' ')}›"
        case ast.FormattedValue():
            return "…"
        case ast.IfExp(body=body, orelse=other):
            return _joined([_text(body), _text(other)])
        case ast.BoolOp(values=values):
            return _text(values[-1])
        case _:
            return ""


def _joined(hints: Sequence[str]) -> str:
    return "; or: ".join(dict.fromkeys(hints))


def _merged(reasons: Sequence[Reason]) -> Iterator[Reason]:
    """One entry for each service and reason; what differs between its places stands together."""
    entries: dict[tuple[str, str], list[Reason]] = {}
    for reason in reasons:
        entries.setdefault((reason.service, reason.name), []).append(reason)
    for _, same in sorted(entries.items()):
        yield replace(
            same[0],
            code=" / ".join(dict.fromkeys(r.code for r in same if r.code)),
            retryable=any(r.retryable for r in same),
            meaning=_joined([r.meaning for r in same if r.meaning]),
            hint=_joined([r.hint for r in same if r.hint]),
        )
