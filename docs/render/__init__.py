"""Pages that are rendered from the code: `python -m docs.render`, or `make docs`."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository's root."""
