"""A rate limit: how exactly it holds, and how soon a change of it shows."""

import time
from collections import deque
from collections.abc import Callable

from tests.bench.bench_disk import create_image
from tests.bench.engine_worker import Copied, start_worker
from tests.bench.processes import BenchFailed, Processes, read_so_far, wait_for
from tests.bench.results import Result, median_result
from tests.bench.servers import nbdkit_source
from tests.bench.surroundings import Bench

_MIB = 1 << 20
_RATE = 50 * _MIB
_HOLD_SECONDS = 20.0
_OFF_BY = 0.05
_CHANGE_SECONDS = 2.0
# A change has taken effect when this much time has passed at the new rate, within a tenth or
# within a chunk: reads come a chunk at a time.
_WINDOW_SECONDS = 0.5
_NEAR = 0.1
_CHUNK_BYTES = _MIB
_STEP_SECONDS = 0.02
_GIVE_UP_SECONDS = 6.0


def rate_limit(bench: Bench) -> list[Result]:
    """50 MiB/s over 20 s as the source's server sees it, then 20 MiB/s."""
    scale = _RATE * _HOLD_SECONDS / (bench.occupied_bytes * 0.6)
    # A smaller disk is read more slowly, and for a shorter time.
    rate = _RATE if scale <= 1 else bench.occupied_bytes // 5
    seconds = _HOLD_SECONDS if scale <= 1 else 2.0
    off_by, changes = [], []
    for number in range(bench.rounds):
        bench.console.print(f"rate limit: round {number + 1} of {bench.rounds}", style="dim")
        off, change = _one(bench, rate, seconds)
        off_by.append(off)
        changes.append(change)
    shown = f"{rate / _MIB:.0f} MiB/s over {seconds:.0f} s"
    return [
        median_result("rate limit: off by", off_by, _OFF_BY, detail=shown),
        median_result("rate limit: seconds to a change", changes, _CHANGE_SECONDS),
    ]


def _one(bench: Bench, rate: int, seconds: float) -> tuple[float, float]:
    processes = Processes()
    copied = Copied.below(bench.folder, bench.sockets, "rate")
    copied.forget()
    create_image(copied.image, bench.capacity_bytes)
    with nbdkit_source(processes, bench.sockets, bench.disk.path) as source:
        pid = source.process.pid
        before = read_so_far(pid)
        worker = start_worker(processes, copied, source.uri, bench.capacity_bytes, rate=rate)
        wait_for("the first reads", lambda: read_so_far(pid) - before > _MIB, worker.process)
        first, begun = read_so_far(pid), time.monotonic()
        time.sleep(seconds)
        pace = (read_so_far(pid) - first) / (time.monotonic() - begun)
        slower = rate * 2 // 5
        worker.command("rate", bytes_per_second=slower)
        change = _seconds_until(slower, lambda: read_so_far(pid))
        worker.abandon()
    copied.image.unlink()
    return abs(pace / rate - 1), change


def _seconds_until(rate: int, read: Callable[[], int]) -> float:
    """How long it takes until a window at about this rate has passed."""
    near = max(_NEAR, _CHUNK_BYTES / (rate * _WINDOW_SECONDS))
    begun = time.monotonic()
    samples = deque([(begun, read())])
    while True:
        time.sleep(_STEP_SECONDS)
        now = time.monotonic()
        samples.append((now, read()))
        while now - samples[1][0] >= _WINDOW_SECONDS:
            samples.popleft()
        since, then = samples[0]
        pace = (samples[-1][1] - then) / (now - since)
        if now - since >= _WINDOW_SECONDS and abs(pace / rate - 1) <= near:
            return now - begun
        if now - begun > _GIVE_UP_SECONDS:
            raise BenchFailed(f"no effect of a new rate in {_GIVE_UP_SECONDS:.0f} seconds")
