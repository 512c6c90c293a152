"""The hooks of pre-commit are the commands of `make check`, and a test of the subject's length."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

_ROOT = Path(__file__).parents[2]
_HOOKS = yaml.safe_load((_ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"][0]["hooks"]
_COMMAND = re.compile(r"ruff \w+|mypy|lint-imports|buf \w+|proto/check\.sh")


def test_they_are_those_of_make_check() -> None:
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (_ROOT / "Makefile").read_text("utf-8"), re.M)
    assert recipe
    checked = _COMMAND.findall(recipe[1])
    hooked = [name for hook in _HOOKS for name in _COMMAND.findall(hook["entry"])]
    assert hooked == checked
    assert len(checked) == len(recipe[1].splitlines())


@pytest.mark.parametrize(("characters", "accepted"), [(72, True), (73, False)])
def test_a_subject_has_at_most_72_characters(
    characters: int, accepted: bool, tmp_path: Path
) -> None:
    (hook,) = (hook for hook in _HOOKS if hook["id"] == "subject")
    message = tmp_path / "message"
    message.write_text("x" * characters + "\n\nA body may have lines of any length." + "y" * 80)
    command = f"{hook['entry']} '{message}'"
    ended = subprocess.run(["sh", "-c", command], check=False)
    assert (ended.returncode == 0) is accepted
