"""The state machine's table, the handlers behind it and the page made of it agree."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from services.orchestrator.handlers import HANDLERS
from services.orchestrator.stages import STAGE_TABLE, Stage, markdown
from services.orchestrator.tick import Handler

_PAGE = Path(__file__).parents[2] / "docs/reference/state-machine.md"


def test_every_stage_has_a_row_and_all_but_the_last_a_handler() -> None:
    assert list(STAGE_TABLE) == list(Stage)
    assert set(HANDLERS) == set(Stage) - {Stage.DONE}


def test_the_usual_way_leads_through_the_stages_in_order() -> None:
    order = list(Stage)
    for stage, row in STAGE_TABLE.items():
        for following in row.next[:1]:
            assert order.index(following) > order.index(stage)


def _stages_named(tree: ast.AST) -> set[Stage]:
    return {
        Stage[node.attr]
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "Stage"
    }


def _advances(handler: Handler) -> set[Stage]:
    """Stages in `Advance(...)` of a handler, also those that a function called there returns."""
    module = ast.parse(inspect.getsource(inspect.getmodule(handler)))  # type: ignore[arg-type]
    functions = {f.name: f for f in module.body if isinstance(f, ast.FunctionDef)}
    found: set[Stage] = set()
    for node in ast.walk(functions[handler.__name__]):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Advance":
            (target,) = node.args
            if isinstance(target, ast.Call) and isinstance(target.func, ast.Name):
                found |= _stages_named(functions[target.func.id])
            found |= _stages_named(target)
    return found


@pytest.mark.parametrize("stage", HANDLERS)
def test_the_table_names_exactly_the_transitions_that_handlers_make(stage: Stage) -> None:
    # A stage that follows itself waits there, it does not advance.
    assert _advances(HANDLERS[stage]) == set(STAGE_TABLE[stage].next) - {stage}


def test_the_page_is_what_the_table_says() -> None:
    assert _PAGE.read_text() == markdown(), "make docs"


def test_the_page_is_printed_by_the_module() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "services.orchestrator.stages"],
        check=True,
        capture_output=True,
        text=True,
        cwd=_PAGE.parents[2],
    )
    assert printed.stdout == markdown()
