"""A spec is parsed once by each process that needs it."""

from pathlib import Path

import pytest

from services.config import load_spec_files, parse_config
from services.config.document import Document, parse_document
from services.orchestrator.controls.submission import Submission
from services.orchestrator.database.store import Store

_CONFIG = """
vcenter: {host: vc.example.com, user: admin, password: secret}
migration: {vddk_path: /vddk, control_dir: /control}
cloudstack: {endpoint: cs.example.com, api_key: key, secret_key: secret}
cloudstack_defaults:
  {zoneid: z, clusterid: c, storageid: s, networkid: n, serviceofferingid: o}
"""


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources of the documents parsed from now on."""
    sources: list[str] = []

    def recorded(text: str, source: str) -> Document:
        sources.append(source)
        return parse_document(text, source)

    monkeypatch.setattr("services.config.loader.parse_document", recorded)
    return sources


def test_spec_files_are_parsed_once_and_keep_their_text(tmp_path: Path, parsed: list[str]) -> None:
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    first.write_text("vms:\n- vm: {name: a}\n- vm: {name: b}\n")
    second.write_text("vm: {name: c}\n")
    files = load_spec_files(first, second)
    assert [[spec.vm.name for spec in file.specs] for file in files] == [["a", "b"], ["c"]]
    assert [(file.path, file.text) for file in files] == [
        (first, first.read_text()),
        (second, second.read_text()),
    ]
    assert parsed == [str(first), str(second)]


def test_the_ticks_of_a_migration_parse_its_spec_once(tmp_path: Path, parsed: list[str]) -> None:
    submission = Submission(Store(f"sqlite:///{tmp_path}/db"), parse_config(_CONFIG, "config.yaml"))
    parsed.clear()
    for _ in range(5):
        assert submission.read("vm: {name: a}\n", "a.yaml").name == "a"
    assert submission.read("vm: {name: b}\n", "a.yaml").name == "b"
    assert parsed == ["a.yaml", "a.yaml"]
