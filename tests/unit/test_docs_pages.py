"""What the hand-written pages state: links that lead somewhere, commands and options that exist."""

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
from gateway.routes import health, inventory, migrations
from services.config.config_model import Config
from services.config.spec_model import MigrationSpec
from services.kit import metrics

ROOT = Path(__file__).parents[2]
_DOCS = ROOT / "docs"
_HOWTO = _DOCS / "howto"
_REFERENCE = _DOCS / "reference"
PAGES = (
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG")),
    *sorted(_DOCS.rglob("*.md")),
)
# It also names what older versions had.
_HISTORY = ROOT / "CHANGELOG.md"


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    prose = re.sub(r"```.*?```", "", _text(page), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def _links(page: Path) -> list[str]:
    targets = re.findall(r"\]\(([^)\s]+)\)", _text(page))
    return [target for target in targets if "://" not in target]


def _is_broken(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    return not target.exists() or bool(anchor and anchor not in _anchors(target))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    assert [link for link in _links(page) if _is_broken(page, link)] == []


@pytest.mark.parametrize("folder", ["howto", "reference", "explanation"])
def test_the_index_has_every_page(folder: str) -> None:
    linked = {link.partition("#")[0] for link in _links(_DOCS / "README.md")}
    assert {f"{folder}/{page.name}" for page in (_DOCS / folder).glob("*.md")} <= linked


def test_every_decision_has_a_status_rejected_options_and_a_place_in_the_list() -> None:
    decisions = sorted((_DOCS / "adr").glob("0*.md"))
    assert len(decisions) > 10
    linked = _links(_DOCS / "adr" / "README.md")
    assert linked == [page.name for page in decisions]
    for number, page in enumerate(decisions, start=1):
        text = _text(page)
        assert text.startswith(f"# {number}. "), page.name
        assert re.search(r"^Status: (accepted|superseded by \d+), \d{4}-\d\d-\d\d", text, re.M)
        assert "\n## Rejected\n" in text, page.name


def _shell_lines(page: Path) -> Iterator[str]:
    for block in re.findall(r"```sh\n(.*?)```", _text(page), re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()


def _commands(program: str) -> list[str]:
    found = []
    for page in PAGES:
        if page == _HISTORY:
            continue
        inline = re.findall(r"`((?:v2c|make) [^`]+)`", _text(page))
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
            return f"nothing called {name}" if name not in {"--help", "--version"} else ""
        command = commands[name]
        if name in {"lab", "demo"}:  # Handed on to the lab's own command line.
            command = get_command(lab_cli.app)
        if name == "demo":
            command = getattr(command, "commands", {})[name]
    known = {option for parameter in command.params for option in parameter.opts}
    wrong = [word for word in words if word.startswith("-") and word not in {*known, "--help"}]
    return f"no option {wrong[0]}" if wrong else ""


@pytest.mark.parametrize("line", [c for c in _commands("v2c") if not c.startswith("--install")])
def test_v2c_has_the_commands_and_options_that_pages_print(line: str) -> None:
    words = [word for word in shlex.split(line) if word not in {"COMMAND", "…"}]
    assert _refusal(words) == ""


@pytest.mark.parametrize("line", _commands("make"))
def test_make_has_the_targets_that_pages_print(line: str) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", _text(ROOT / "Makefile"), re.MULTILINE))
    assert set(re.sub(r"[A-Z]+=\S+", "", line).split()) <= targets


def test_the_command_line_reference_is_complete() -> None:
    rows = dict(
        re.findall(r"^\| `v2c ([^`]+)`.*\| ([^|]*) \|$", _text(_REFERENCE / "cli.md"), re.M)
    )
    missing = []
    for name, command in getattr(get_command(_app(())), "commands", {}).items():
        parts = getattr(command, "commands", {})
        for row, part in (
            [(f"{name} {sub}", parts[sub]) for sub in parts] if parts else [(name, command)]
        ):
            options = {o for p in part.params for o in p.opts if o.startswith("--")}
            shown = set(re.findall(r"--[a-z-]+", rows.get(row, "")))
            if row not in rows or options - shown - {"--help"}:
                missing.append((row, sorted(options - shown)))
    assert missing == []


def test_every_environment_variable_is_explained() -> None:
    sources = [
        p for part in ("services", "gateway", "cli", "lab") for p in (ROOT / part).rglob("*.py")
    ]
    used = {name for path in sources for name in re.findall(r"\bV2C_[A-Z_]+", _text(path))}
    shown = set(re.findall(r"^\| `(V2C_\w+)` \|", _text(_REFERENCE / "cli.md"), re.MULTILINE))
    assert used == shown


def _served() -> list[tuple[str, str]]:
    return [
        (method, str(getattr(route, "path", "")))
        for router in (health.router, inventory.router, migrations.router)
        for route in router.routes
        for method in sorted(getattr(route, "methods", ()))
    ]


def test_rest_paths_in_pages_exist() -> None:
    paths = [path for _, path in _served()]
    patterns = [re.sub(r"\{[^}]+\}", "[^/]+", path) for path in (*paths, "/openapi.json")]
    shown = set(re.findall(r"\$U(/[^\s\"?]*)", _text(_HOWTO / "use-rest-and-grpc.md")))
    assert len(shown) > 8
    assert [p for p in shown if not any(re.fullmatch(known, p) for known in patterns)] == []


def test_the_rest_reference_has_every_call() -> None:
    shown = set(re.findall(r"^\| `(GET|POST) ([^`]+)`", _text(_REFERENCE / "rest.md"), re.M))
    assert shown == {(method, path.replace(":path", "")) for method, path in _served()}


def test_every_section_of_the_config_is_explained() -> None:
    sections = re.findall(r"^\| `(\w+)` \|", _text(_REFERENCE / "config.md"), re.MULTILINE)
    assert set(Config.model_fields) <= set(sections)


def test_every_key_of_a_spec_is_explained() -> None:
    keys = re.findall(r"^\| `migration\.(\w+)` \|", _text(_REFERENCE / "spec.md"), re.MULTILINE)
    assert sorted(keys) == sorted(MigrationSpec.model_fields)


def test_every_metric_is_explained() -> None:
    shown = set(re.findall(r"^\| `(v2c_\w+)` \|", _text(_REFERENCE / "metrics.md"), re.MULTILINE))
    families = (metrics.RPC_TOTAL, metrics.RPC_SECONDS, metrics.RPC_STREAMS)
    served = {family.name for metric in families for family in metric.collect()}
    assert {name.removesuffix("_total") for name in shown} == served


def test_the_expert_spec_in_the_page_can_be_used(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(vddk:.*?)```", _text(_HOWTO / "copy-one-disk.md"), re.DOTALL)
    assert len(blocks) == 1
    (tmp_path / "disk.yaml").write_text(blocks[0], encoding="utf-8")
    spec = load_expert_spec(tmp_path / "disk.yaml")
    assert spec.base_copy is not None
    assert spec.delta_sync is not None
    assert spec.base_copy.target_qcow2 == spec.delta_sync.target_qcow2


def test_the_glossary_is_sorted_and_has_each_word_once() -> None:
    text = _text(_REFERENCE / "glossary.md")
    words = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", text, re.MULTILINE)[1:]
    assert words == sorted(words, key=str.lower)
    assert len(words) == len(set(words)) > 60
