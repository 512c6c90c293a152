"""Two disks at once, each with a worker of its own."""

import contextlib

from tests.bench.bench_disk import create_image
from tests.bench.engine_worker import Copied, start_worker
from tests.bench.processes import Cost, Processes
from tests.bench.results import Result, median_result
from tests.bench.servers import nbdkit_source
from tests.bench.surroundings import Bench, cost, stopwatch

_DELAY_MS = 2
_AT_LEAST = 1.5


def two_disks(bench: Bench) -> list[Result]:
    """The throughput of two copies at once over that of one, from sources with 2 ms latency."""
    costs = bench.interleaved(
        {"one": lambda: _copies(bench, 1), "two": lambda: _copies(bench, 2)}, "two disks"
    )
    gains = [
        2 * one.wall_seconds / two.wall_seconds
        for one, two in zip(costs["one"], costs["two"], strict=True)
    ]
    return [median_result("two disks: throughput / one disk", gains, _AT_LEAST, at_least=True)]


def _copies(bench: Bench, count: int) -> Cost:
    processes = Processes()
    disks = [Copied.below(bench.folder, bench.sockets, f"pair-{n}") for n in range(count)]
    with contextlib.ExitStack() as stack:
        sources = []
        for number, copied in enumerate(disks):
            copied.forget()
            create_image(copied.image, bench.capacity_bytes)
            served = nbdkit_source(
                processes,
                bench.sockets,
                bench.disk.path,
                delay_ms=_DELAY_MS,
                name=f"source-{number}",
            )
            sources.append(stack.enter_context(served))
        with stopwatch() as watch:
            workers = [
                start_worker(processes, copied, source.uri, bench.capacity_bytes)
                for copied, source in zip(disks, sources, strict=True)
            ]
            # A worker prints little: its pipe holds all of it meanwhile.
            for worker in workers:
                worker.finish()
    for copied in disks:
        copied.image.unlink()
    return cost(watch, processes)
