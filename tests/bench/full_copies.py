"""Full copies: the engine, nbdcopy twice, qemu-img and cp, into the same kind of image."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from services.disk_agent.chunk_map.digests import BLAKE3, XXH3_128
from tests.bench.bench_disk import assert_equal, create_image
from tests.bench.engine_worker import MODULE, WITHOUT_DIGESTS, Copied, start_worker
from tests.bench.processes import Cost, Processes
from tests.bench.results import Result
from tests.bench.servers import Served, nbdkit_source, qemu_target
from tests.bench.surroundings import OURS, Bench, compared, cost, stopwatch

DEFAULTS: tuple[str, ...] = ()
AT_ITS_BEST = ("--request-size=1048576", "--requests=16")
_NBDCOPY = "nbdcopy"
_BEST = "nbdcopy 1M x 16"
# The engine's qemu-nbd has an environment that makes it quicker, and nbdcopy's has it as well; this
# is what nbdcopy takes without.
_BY_HAND = "nbdcopy, qemu-nbd by hand"
_DELAY_MS = 2


@dataclass(frozen=True)
class FullCopies:
    """Contenders over a source with some latency. Each run copies into a new image."""

    bench: Bench
    delay_ms: int = 0

    def engine(self, module: str = MODULE, digest: str = XXH3_128) -> Cost:
        """The worker, from its start to its end: qemu-nbd, map and checkpoints included."""
        bench, processes = self.bench, Processes()
        copied = Copied.below(bench.folder, bench.sockets, "copy")
        copied.forget()
        create_image(copied.image, bench.capacity_bytes)
        with self._source(processes) as source, stopwatch() as watch:
            worker = start_worker(
                processes, copied, source.uri, bench.capacity_bytes, module=module, digest=digest
            )
            worker.finish()
        self._check(copied.image)
        return cost(watch, processes)

    def nbdcopy(self, options: Sequence[str], *, tuned: bool = True) -> Cost:
        """nbdcopy, from the start of its qemu-nbd to that one's end: the engine has one, too."""
        bench, processes = self.bench, Processes()
        image = create_image(bench.folder / "copy.qcow2", bench.capacity_bytes)
        with (
            self._source(processes) as source,
            stopwatch() as watch,
            qemu_target(processes, bench.sockets, image, tuned=tuned) as target,
        ):
            processes.run(["nbdcopy", *options, "--", source.uri, target.uri])
        self._check(image)
        return cost(watch, processes)

    def qemu_img(self) -> Cost:
        """qemu-img convert, which writes the image itself."""
        bench, processes = self.bench, Processes()
        image = create_image(bench.folder / "copy.qcow2", bench.capacity_bytes)
        with self._source(processes) as source, stopwatch() as watch:
            processes.run(
                [
                    "qemu-img",
                    "convert",
                    "-n",
                    "-W",
                    "-m",
                    "16",
                    "-t",
                    "none",
                    "-f",
                    "raw",
                    "-O",
                    "qcow2",
                    source.uri,
                    str(image),
                ]
            )
        self._check(image)
        return cost(watch, processes)

    def cp(self) -> Cost:
        """cp from file to file, and fsync: what the storage alone takes."""
        processes = Processes()
        copy = self.bench.folder / "copy.raw"
        copy.unlink(missing_ok=True)
        with stopwatch() as watch:
            processes.run(["cp", "--sparse=always", "--", str(self.bench.disk.path), str(copy)])
            processes.run(["sync", str(copy)])
        copy.unlink()
        return cost(watch, processes)

    def _source(self, processes: Processes) -> AbstractContextManager[Served]:
        bench = self.bench
        return nbdkit_source(processes, bench.sockets, bench.disk.path, delay_ms=self.delay_ms)

    def _check(self, image: Path) -> None:
        if self.bench.quick:
            assert_equal(self.bench.disk.path, image)
        image.unlink()


def full_copy(bench: Bench) -> list[Result]:
    """Against nbdcopy with defaults and at its best; qemu-img and cp for orientation."""
    copies = FullCopies(bench)
    costs = bench.interleaved(
        {
            OURS: copies.engine,
            _NBDCOPY: lambda: copies.nbdcopy(DEFAULTS),
            _BEST: lambda: copies.nbdcopy(AT_ITS_BEST),
            _BY_HAND: lambda: copies.nbdcopy(DEFAULTS, tuned=False),
            "qemu-img convert -W": copies.qemu_img,
            "cp --sparse": copies.cp,
        },
        "full copy",
    )
    return compared("full copy", costs, {_NBDCOPY: (0.75, 0.75), _BEST: (1.0, None)})


def copy_from_afar(bench: Bench) -> list[Result]:
    """The same from a source that takes 2 ms for each read."""
    copies = FullCopies(bench, _DELAY_MS)
    costs = bench.interleaved(
        {
            OURS: copies.engine,
            _NBDCOPY: lambda: copies.nbdcopy(DEFAULTS),
            _BEST: lambda: copies.nbdcopy(AT_ITS_BEST),
            "qemu-img convert -W": copies.qemu_img,
        },
        "full copy, 2 ms source",
    )
    return compared("full copy, 2 ms source", costs, {_NBDCOPY: (0.75, None), _BEST: (0.95, None)})


def digests(bench: Bench) -> list[Result]:
    """The engine with digests against itself without, and with the others for orientation."""
    copies = FullCopies(bench)
    costs = bench.interleaved(
        {
            OURS: copies.engine,
            "without digests": lambda: copies.engine(WITHOUT_DIGESTS),
            "with blake3": lambda: copies.engine(digest=BLAKE3),
        },
        "digests",
    )
    return compared("digests", costs, {"without digests": (1.05, None)})
