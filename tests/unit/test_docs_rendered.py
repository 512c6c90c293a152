"""Rendered pages say what the code says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from docs.render.__main__ import PAGES
from docs.render.reasons import ROOT, collect, source_files

_UPPER_SNAKE = re.compile(r"^[A-Z][A-Z0-9]*(_[A-Z0-9]+)+$")


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_the_committed_page_is_what_the_code_renders(path: Path) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == PAGES[path](), "run `make docs`"


def _literals(tree: ast.Module) -> set[str]:
    """What looks like a reason, wherever it stands: assigned, passed on or raised."""
    nodes: list[ast.AST] = []
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id="reason")], value=value):
                nodes.append(value)
            case ast.keyword(arg="reason", value=value):
                nodes.append(value)
            case ast.Raise(exc=ast.expr() as raised):
                nodes.append(raised)
    values = [n.value for node in nodes for n in ast.walk(node) if isinstance(n, ast.Constant)]
    return {v for v in values if isinstance(v, str) and _UPPER_SNAKE.match(v)}


def test_every_reason_that_the_code_can_raise_is_on_the_page() -> None:
    page = (ROOT / "docs/reference/errors.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| ([A-Z0-9_]+) \|", page, re.MULTILINE))
    raised = set()
    for path in source_files():
        raised |= _literals(ast.parse(path.read_text(encoding="utf-8")))
    assert len(raised) > 100
    assert raised - told == set()


def test_tables_and_inherited_values_are_found() -> None:
    reasons = {(r.service, r.name): r for r in collect()}
    assert reasons["disk_agent", "GUEST_DISK_FULL"].hint.startswith("free 100 MB")
    assert reasons["disk_agent", "VDDK_LOGIN"].meaning.endswith("cannot be authenticated")
    assert reasons["vmware_agent:findings", "DISK_RAW"].code == "error"
    # From CloudStackAnswerLost, its base.
    assert reasons["cloudstack_agent", "CLOUDSTACK_TIMEOUT"].retryable
    assert reasons["cloudstack_agent", "CLOUDSTACK_TIMEOUT"].code == "DEADLINE_EXCEEDED"
    assert reasons["gateway", "AMBIGUOUS_VM"].code == "HTTP 409"


def test_every_reason_has_a_meaning() -> None:
    assert [r.name for r in collect() if not r.meaning] == []
