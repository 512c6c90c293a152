"""``python -m lab.esxi_host --dir D``: keeps the ESXi side's nbdkit until SIGTERM.

nbdkit in the foreground ends with the thread that started it (1.32 sets PR_SET_PDEATHSIG even
without ``--exit-with-parent``), so this process starts it and runs as long as it.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from lab.esxi.process import EsxiStartError, start_esxi

_POLL_SECONDS = 0.5


def main() -> int:
    """Start nbdkit, wait for a signal or for its end, stop it; 1 if it ended by itself."""
    parser = argparse.ArgumentParser(prog="python -m lab.esxi_host", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="directory of the lab instance")
    directory: Path = parser.parse_args().dir
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        esxi = start_esxi(directory / "esxi")
    except EsxiStartError as error:
        print(error, file=sys.stderr)
        return 1
    with esxi:
        while not stop.wait(_POLL_SECONDS):
            if esxi.process.poll() is not None:
                print("nbdkit ended by itself, see esxi/nbdkit.log", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
