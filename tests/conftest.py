"""What every test starts with."""

from __future__ import annotations

from pathlib import PurePath

import pytest
import structlog

# structlog's default renders a traceback with all its local variables, which takes seconds.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.KeyValueRenderer(key_order=["level", "event"]),
    ],
    wrapper_class=structlog.stdlib.BoundLogger,
    logger_factory=structlog.PrintLoggerFactory(),
)

# Tiers whose files take longest come first, so that no worker ends with one of them alone.
_LONGEST_FIRST = ("e2e", "storage", "crash", "contract", "unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files by how long their tier takes; tests of one file keep their order."""
    items.sort(key=lambda item: _rank(item.path))


def _rank(path: PurePath) -> int:
    tier = path.parent.name
    return _LONGEST_FIRST.index(tier) if tier in _LONGEST_FIRST else len(_LONGEST_FIRST)
