"""Reading an image back against its map, next to merely reading it."""

from services.disk_agent.worker.modes import Mode
from tests.bench.bench_disk import create_image
from tests.bench.engine_worker import Copied, start_worker
from tests.bench.processes import BenchFailed, Cost, Processes
from tests.bench.results import Result
from tests.bench.servers import nbdkit_source, qemu_target
from tests.bench.surroundings import OURS, Bench, compared, cost, stopwatch

_NBDCOPY = "nbdcopy to null"


def verify_target(bench: Bench) -> list[Result]:
    """verify-target over an image of the whole disk, against nbdcopy to null:."""
    copied = Copied.below(bench.folder, bench.sockets, "verify")
    copied.forget()
    create_image(copied.image, bench.capacity_bytes)
    processes = Processes()
    with nbdkit_source(processes, bench.sockets, bench.disk.path) as source:
        start_worker(processes, copied, source.uri, bench.capacity_bytes).finish()

    def engine() -> Cost:
        processes = Processes()
        with stopwatch() as watch:
            progress = start_worker(
                processes, copied, None, bench.capacity_bytes, mode=Mode.VERIFY_TARGET
            ).finish()
        if progress.unverified_chunks:
            raise BenchFailed(f"{progress.unverified_chunks} chunks could not be verified")
        return cost(watch, processes)

    def nbdcopy() -> Cost:
        processes = Processes()
        with (
            stopwatch() as watch,
            qemu_target(processes, bench.sockets, copied.image, writable=False) as image,
        ):
            processes.run(["nbdcopy", "--", image.uri, "null:"])
        return cost(watch, processes)

    costs = bench.interleaved({OURS: engine, _NBDCOPY: nbdcopy}, "verify-target")
    copied.image.unlink()
    return compared("verify-target", costs, {_NBDCOPY: (1.3, None)})
