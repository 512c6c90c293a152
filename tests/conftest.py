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

# What takes longest comes first, so that no worker ends with it alone: files with an emulated
# guest, then tiers.
_LONGEST_FILES = ("test_e2e_demo.py", "test_disk_conversion_real.py", "test_lab_guest_build.py")
_LONGEST_TIERS = ("e2e", "crash", "storage", "contract", "unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files by how long they take; tests of one file keep their order."""
    items.sort(key=lambda item: _rank(item.path))


def _rank(path: PurePath) -> tuple[int, int]:
    return _place(path.name, _LONGEST_FILES), _place(path.parent.name, _LONGEST_TIERS)


def _place(name: str, longest_first: tuple[str, ...]) -> int:
    return longest_first.index(name) if name in longest_first else len(longest_first)
