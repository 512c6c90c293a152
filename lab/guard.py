"""``python -m lab.guard DIR``: ends the lab in DIR if the process that owns it dies.

The owner keeps this process's standard input open and writes a line to it after it has ended the
lab itself. End of file without that line means that the owner died.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """Wait until the owner ends the lab or dies."""
    if sys.stdin.readline():
        return
    from lab.stack import down  # imported late, so that the waiting guard needs little memory

    down(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
