"""Fixtures that several files of this tier use."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rigs.disk.expert import Expert, expert_on


@pytest.fixture
def expert(tmp_path: Path) -> Iterator[Expert]:
    """The expert commands, and a disk with two pieces of data and no snapshot."""
    with expert_on(tmp_path) as ready:
        yield ready
