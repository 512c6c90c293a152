"""``python -m docs.render``: write all rendered pages."""

from collections.abc import Callable, Mapping
from pathlib import Path

from docs.render import ROOT, errors
from services.orchestrator import stages

__all__ = ["PAGES"]

PAGES: Mapping[Path, Callable[[], str]] = {
    Path("docs/reference/errors.md"): errors.page,
    Path("docs/reference/state-machine.md"): stages.markdown,
}
"""Below the repository's root."""

if __name__ == "__main__":
    for path, page in PAGES.items():
        (ROOT / path).write_text(page(), encoding="utf-8")
        print(path)
