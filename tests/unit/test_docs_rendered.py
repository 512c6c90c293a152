"""Rendered pages say what the code says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from docs.render import ROOT
from docs.render.__main__ import PAGES
from docs.render.errors import FINDINGS, entries


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_the_committed_page_is_what_the_code_renders(path: Path) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == PAGES[path](), "run `make docs`"


def test_classes_findings_and_inherited_values_are_found() -> None:
    found = {(entry.service, entry.reason): entry for entry in entries()}
    assert len(found) > 100
    assert found["disk_agent", "POOL_FULL"].kind == "RESOURCE_EXHAUSTED"
    assert found[FINDINGS, "DISK_RAW"].kind == "error"
    assert found["kit", "TLS_FILES_INVALID"].meaning.startswith("One of the three files")
    assert "UNAVAILABLE" in found["kit", "REMOTE_‹CODE›"].retry
    # From CloudStackAnswerLost, its base.
    assert found["cloudstack_agent", "CLOUDSTACK_TIMEOUT"].retry == "yes"
    assert found["cloudstack_agent", "CLOUDSTACK_TIMEOUT"].kind == "DEADLINE_EXCEEDED"


def test_every_reason_has_a_meaning() -> None:
    assert [entry.reason for entry in entries() if not entry.meaning] == []


def test_every_reason_has_a_next_step() -> None:
    assert [entry.reason for entry in entries() if not entry.hint] == []


def test_a_reason_is_declared_once_within_a_service() -> None:
    counted = Counter((entry.service, entry.reason) for entry in entries())
    assert [reason for reason, count in counted.items() if count > 1] == []
