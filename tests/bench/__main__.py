"""``python -m tests.bench``: figures of the copy path, as a table and in build/bench.json.

Exit status 0 whatever the figures are; 1 when they could not be taken.
"""

import argparse
import compileall
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from tests.bench.bench_disk import QUICK, BenchDisk, fitting_shape
from tests.bench.cycles import cycles
from tests.bench.deltas import delta
from tests.bench.full_copies import copy_from_afar, digests, full_copy
from tests.bench.pairs import two_disks
from tests.bench.processes import BenchFailed
from tests.bench.rates import rate_limit
from tests.bench.results import Result, show, write
from tests.bench.resuming import resume
from tests.bench.surroundings import Bench
from tests.bench.verification import verify_target

CASES: dict[str, Callable[[Bench], list[Result]]] = {
    "copy": full_copy,
    "latency": copy_from_afar,
    "delta": delta,
    "digests": digests,
    "verify": verify_target,
    "resume": resume,
    "two-disks": two_disks,
    "rate": rate_limit,
    "cycles": cycles,
}
_PROJECT = Path(__file__).parents[2]
_BUILD = _PROJECT / "build"
_ROUNDS = 5


def main(arguments: Sequence[str]) -> int:
    """Measure; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--quick", action="store_true", help="one round on a tiny disk: no figures")
    parser.add_argument("--only", choices=CASES, action="append", help="this case (repeatable)")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="rounds per case")
    parser.add_argument("--dir", type=Path, default=_BUILD, help="where disk and images are made")
    parser.add_argument("--json", type=Path, default=_BUILD / "bench.json", help="figures' file")
    chosen = parser.parse_args(arguments)
    console = Console()
    # An end from outside removes disk and images, too.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))
    chosen.dir.mkdir(parents=True, exist_ok=True)
    # As an installed package has it: it may be kept from writing any (PYTHONDONTWRITEBYTECODE).
    compileall.compile_dir(_PROJECT / "services", quiet=1)
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=chosen.dir) as folder,
        tempfile.TemporaryDirectory(prefix="v2c-") as sockets,
    ):
        try:
            shape = QUICK if chosen.quick else fitting_shape(Path(folder))
            disk = BenchDisk(Path(folder) / "source.raw", shape)
            disk.make()
            bench = Bench(
                disk,
                Path(folder),
                Path(sockets),
                1 if chosen.quick else chosen.rounds,
                chosen.quick,
                console,
            )
            results: list[Result] = []
            for name in chosen.only or CASES:
                results += CASES[name](bench)
        except (BenchFailed, AssertionError, OSError, subprocess.CalledProcessError) as error:
            console.print(f"no figures: {error}", style="bold red", markup=False)
            return 1
    show(results, console)
    write(results, chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
