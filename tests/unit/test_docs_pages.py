"""What the hand-written pages tell: files that exist, commands and options that v2c has."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

import lab.__main__ as lab_cli
from cli.app import _app
from cli.expert.spec import load_expert_spec
from docs.render import ROOT
from gateway.routes import health, inventory, migrations
from services.config.config_model import Config

PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_to_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    links = [target for target in targets if "://" not in target]
    assert [link for link in links if not (page.parent / link).exists()] == []


def _shell_lines(page: Path) -> Iterator[str]:
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()


def _commands(program: str) -> list[str]:
    found = []
    for page in PAGES:
        inline = re.findall(r"`((?:v2c|make) [^`]+)`", page.read_text(encoding="utf-8"))
        for line in (*_shell_lines(page), *inline):
            match = re.match(rf"\s*(?:\S*/)?{program} (.*)", line.split(" #")[0])
            if match:
                found.append(re.split(r" [|&>]|;", match[1])[0].strip())
    return sorted(set(found))


def _refusal(words: list[str]) -> str:
    """Why this command line cannot be, as far as names go."""
    command = get_command(_app(()))
    while words and (commands := getattr(command, "commands", {})):
        name = words.pop(0)
        if name not in commands:
            return f"nothing called {name}" if name != "--help" else ""
        command = commands[name]
        if name in {"lab", "demo"}:  # Handed on to the lab's own command line.
            command = get_command(lab_cli.app)
        if name == "demo":
            command = getattr(command, "commands", {})[name]
    known = {option for parameter in command.params for option in parameter.opts}
    wrong = [word for word in words if word.startswith("-") and word not in {*known, "--help"}]
    return f"no option {wrong[0]}" if wrong else ""


@pytest.mark.parametrize("line", _commands("v2c"))
def test_v2c_has_the_commands_and_options_that_pages_print(line: str) -> None:
    words = [word for word in shlex.split(line) if word not in {"COMMAND", "…"}]
    assert _refusal(words) == ""


@pytest.mark.parametrize("line", _commands("make"))
def test_make_has_the_targets_that_pages_print(line: str) -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.sub(r"[A-Z]+=\S+", "", line).split()) <= targets


def test_rest_paths_in_pages_exist() -> None:
    routers = (health.router, inventory.router, migrations.router)
    served = [getattr(route, "path", "") for router in routers for route in router.routes]
    patterns = [re.sub(r"\{[^}]+\}", "[^/]+", path) for path in (*served, "/openapi.json")]
    told = set(re.findall(r"\$U(/[^\s\"?]*)", (ROOT / "docs/operations.md").read_text("utf-8")))
    assert len(told) > 8
    assert [p for p in told if not any(re.fullmatch(known, p) for known in patterns)] == []


def test_every_section_of_the_config_is_explained() -> None:
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert set(Config.model_fields) <= set(told)


def test_the_expert_spec_in_the_page_can_be_used(tmp_path: Path) -> None:
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(vddk:.*?)```", text, re.DOTALL)
    assert len(blocks) == 1
    (tmp_path / "disk.yaml").write_text(blocks[0], encoding="utf-8")
    spec = load_expert_spec(tmp_path / "disk.yaml")
    assert spec.base_copy is not None
    assert spec.delta_sync is not None
    assert spec.base_copy.target_qcow2 == spec.delta_sync.target_qcow2


def test_the_glossary_is_sorted_and_says_each_word_once() -> None:
    text = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    words = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", text, re.MULTILINE)[1:]
    assert words == sorted(words, key=str.lower)
    assert len(words) == len(set(words)) > 60
