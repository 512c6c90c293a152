"""What all cases share: the disk, folders, the number of rounds, and how rounds are interleaved."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tests.bench.bench_disk import BenchDisk
from tests.bench.processes import Cost, Processes
from tests.bench.results import Result, median_result, ratios

OURS = "engine"
"""The contender that the others are compared with."""


@dataclass(frozen=True)
class Bench:
    """Where and how often to measure. `sockets` has a short path (unix(7): 107 bytes)."""

    disk: BenchDisk
    folder: Path
    sockets: Path
    rounds: int
    quick: bool
    console: Console

    @property
    def capacity_bytes(self) -> int:
        """The disk's size."""
        return self.disk.shape.capacity_bytes

    @property
    def occupied_bytes(self) -> int:
        """What a copy has to read: data and allocated zeroes."""
        return self.disk.shape.data_bytes + self.disk.shape.zero_bytes

    def interleaved(
        self, contenders: Mapping[str, Callable[[], Cost]], what: str
    ) -> dict[str, list[Cost]]:
        """Run every contender once a round, in turning order.

        Turning, because one that always follows the same neighbour would inherit its after-effects.
        """
        costs: dict[str, list[Cost]] = {name: [] for name in contenders}
        for number in range(self.rounds):
            self.console.print(f"{what}: round {number + 1} of {self.rounds}", style="dim")
            names = list(contenders)
            start = number % len(names)
            for name in names[start:] + names[:start]:
                costs[name].append(contenders[name]())
        return costs


@dataclass
class Stopwatch:
    """The wall time of a block."""

    seconds: float = 0.0


@contextlib.contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Measure a block."""
    watch = Stopwatch()
    begun = time.monotonic()
    try:
        yield watch
    finally:
        watch.seconds = time.monotonic() - begun


def cost(watch: Stopwatch, processes: Processes) -> Cost:
    """What a run took, once all of its processes were reaped."""
    return Cost(watch.seconds, processes.cpu_seconds)


Bars = tuple[float | None, float | None]
"""Limits of the ratios of wall and CPU time."""


def compared(
    what: str, costs: Mapping[str, Sequence[Cost]], bars: Mapping[str, Bars]
) -> list[Result]:
    """Wall and CPU of the engine over those of every other contender, with the bars there are."""
    results = []
    ours = costs[OURS]
    for name, theirs in costs.items():
        if name == OURS:
            continue
        wall_bar, cpu_bar = bars.get(name, (None, None))
        for kind, bar in (("wall", wall_bar), ("cpu", cpu_bar)):
            own = [getattr(each, f"{kind}_seconds") for each in ours]
            other = [getattr(each, f"{kind}_seconds") for each in theirs]
            detail = f"{statistics.median(own):.2f} s / {statistics.median(other):.2f} s"
            title = f"{what}: {kind} / {name}"
            results.append(median_result(title, ratios(own, other), bar, detail=detail))
    return results
