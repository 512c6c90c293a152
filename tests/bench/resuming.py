"""A worker killed in the middle, and the one that resumes after it."""

from dataclasses import dataclass

from tests.bench.bench_disk import assert_equal, create_image
from tests.bench.engine_worker import Copied, start_worker
from tests.bench.processes import Cost, Processes, read_so_far, wait_for
from tests.bench.results import Result, median_result, ratios
from tests.bench.servers import qemu_source
from tests.bench.surroundings import Bench, cost, stopwatch

_WALL_LIMIT = 1.15
# An eighth of the disk's data: several checkpoints before the kill.
_CHECKPOINTS = 8


@dataclass(frozen=True)
class _Run:
    cost: Cost
    read_bytes: int


def resume(bench: Bench) -> list[Result]:
    """Kill the worker after half of the reads; what is read twice, and the time of both parts."""
    interval = bench.occupied_bytes // _CHECKPOINTS
    undisturbed: list[_Run] = []
    killed: list[_Run] = []

    def one(runs: list[_Run], *, kill: bool) -> Cost:
        runs.append(_copy(bench, interval, kill=kill))
        return runs[-1].cost

    bench.interleaved(
        {
            "undisturbed": lambda: one(undisturbed, kill=False),
            "killed": lambda: one(killed, kill=True),
        },
        "resume",
    )
    twice = [
        (resumed.read_bytes - whole.read_bytes) / interval
        for resumed, whole in zip(killed, undisturbed, strict=True)
    ]
    walls = ratios(
        [run.cost.wall_seconds for run in killed], [run.cost.wall_seconds for run in undisturbed]
    )
    return [
        median_result(
            "resume: copied twice / checkpoint interval",
            twice,
            1.0,
            detail=f"interval {interval >> 20} MiB",
        ),
        median_result("resume: wall / undisturbed", walls, _WALL_LIMIT),
    ]


def _copy(bench: Bench, interval: int, *, kill: bool) -> _Run:
    processes = Processes()
    copied = Copied.below(bench.folder, bench.sockets, "resume")
    copied.forget()
    create_image(copied.image, bench.capacity_bytes)
    half = bench.occupied_bytes // 2
    # What the source's server has read is no claim of the engine's.
    with qemu_source(processes, bench.sockets, bench.disk.path) as source:
        before = read_so_far(source.process.pid)
        with stopwatch() as watch:
            worker = start_worker(
                processes, copied, source.uri, bench.capacity_bytes, checkpoint_bytes=interval
            )
            if kill:
                wait_for(
                    "half of the copy",
                    lambda: read_so_far(source.process.pid) - before > half,
                    worker.process,
                )
                worker.kill()
                worker = start_worker(
                    processes, copied, source.uri, bench.capacity_bytes, checkpoint_bytes=interval
                )
            worker.finish()
        read_bytes = read_so_far(source.process.pid) - before
    assert_equal(bench.disk.path, copied.image)
    copied.image.unlink()
    return _Run(cost(watch, processes), read_bytes)
