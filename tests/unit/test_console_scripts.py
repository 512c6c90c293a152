"""The commands that an installation puts on the path: every one starts and explains itself."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_SCRIPTS = tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]


def test_there_is_one_for_each_service() -> None:
    services = ("orchestrator", "vmware-agent", "disk-agent", "cloudstack-agent", "gateway")
    assert sorted(_SCRIPTS) == sorted(["v2c", *(f"v2c-{service}" for service in services)])


@pytest.mark.parametrize("name", sorted(_SCRIPTS))
def test_it_prints_its_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main = EntryPoint(name, _SCRIPTS[name], "console_scripts").load()
    monkeypatch.setattr("sys.argv", [name, "--help"])
    status: object = 0
    try:
        status = main()
    except SystemExit as end:
        status = end.code
    assert not status
    printed = capsys.readouterr().out
    assert printed.lower().startswith(f"usage: {name} ")
    expected = [] if name == "v2c" else ["--config", "--show-config"]
    expected += ["--tls-certificate", "--tls-key"] if name == "v2c-gateway" else []
    assert [option for option in expected if option not in printed] == []
