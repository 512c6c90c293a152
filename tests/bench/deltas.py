"""Delta passes over many small ranges, against a C program that does no more than it must."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from services.disk_agent.engine.ranges import Range
from services.disk_agent.worker.modes import Mode
from services.disk_agent.worker.range_sets import RangeSets
from tests.bench.bench_disk import assert_equal, create_image
from tests.bench.engine_worker import Copied, start_worker
from tests.bench.processes import BenchFailed, Cost, Processes
from tests.bench.results import Result
from tests.bench.servers import nbdkit_source, qemu_target
from tests.bench.surroundings import OURS, Bench, compared, cost, stopwatch

_PROGRAM = Path(__file__).with_name("delta.c")
# VMware counts changes in blocks of this size.
_BLOCK_BYTES = 64 << 10
_MOST_RANGES = 5000
# The ranges with data for each one that was zeroed: guests write more than they wipe.
_DATA_PER_ZEROED = 7
_SEED = 21
_SAME = "C program"
_RANGES_ONLY = "C, ranges only"


def delta(bench: Bench) -> list[Result]:
    """5,000 ranges all over the disk, on an image that a full copy has filled."""
    deltas = _Deltas(bench)
    costs = bench.interleaved(
        {
            OURS: deltas.engine,
            _SAME: lambda: deltas.c_program("along"),
            _RANGES_ONLY: lambda: deltas.c_program("ranges"),
        },
        f"delta of {len(deltas.ranges)} ranges",
    )
    deltas.check()
    return compared("delta", costs, {_SAME: (1.0, None)})


@dataclass
class _Deltas:
    bench: Bench
    ranges: list[Range] = field(init=False)

    def __post_init__(self) -> None:
        bench = self.bench
        self.ranges = list(_changed(bench))
        sets = RangeSets(bench.folder)
        sets.put("delta", self.ranges, bench.capacity_bytes)
        self._range_set = sets.path("delta")
        self._lines = bench.folder / "delta.txt"
        self._lines.write_text("".join(f"{at} {length}\n" for at, length in self.ranges))
        self._program = bench.folder / "delta"
        subprocess.run(["gcc", "-O2", "-o", str(self._program), str(_PROGRAM), "-lnbd"], check=True)
        self._disk = bench.folder / "changed.raw"
        shutil.copyfile(bench.disk.path, self._disk)
        self._copied = Copied.below(bench.folder, bench.sockets, "delta-engine")
        self._other = Copied.below(bench.folder, bench.sockets, "delta-program")
        for copied in (self._copied, self._other):
            copied.forget()
            create_image(copied.image, bench.capacity_bytes)
            processes = Processes()
            with nbdkit_source(processes, bench.sockets, self._disk) as source:
                start_worker(processes, copied, source.uri, bench.capacity_bytes).finish()
        _change(self._disk, self.ranges)
        self._pass_number = 0

    def engine(self) -> Cost:
        """One more pass over the same ranges."""
        bench, processes = self.bench, Processes()
        self._pass_number += 1
        with (
            nbdkit_source(processes, bench.sockets, self._disk) as source,
            stopwatch() as watch,
        ):
            worker = start_worker(
                processes,
                self._copied,
                source.uri,
                bench.capacity_bytes,
                mode=Mode.RANGES,
                pass_number=self._pass_number,
                ranges=self._range_set,
            )
            worker.finish()
        return cost(watch, processes)

    def c_program(self, reads: str) -> Cost:
        """The same ranges with the program, its qemu-nbd started and ended as the engine's is."""
        bench, processes = self.bench, Processes()
        with (
            self._lines.open("rb") as lines,
            nbdkit_source(processes, bench.sockets, self._disk) as source,
            stopwatch() as watch,
            qemu_target(processes, bench.sockets, self._other.image) as target,
        ):
            program = processes.start(
                [str(self._program), source.uri, target.uri, reads], stdin=lines
            )
            if processes.reap(program):
                raise BenchFailed("the C program failed")
        return cost(watch, processes)

    def check(self) -> None:
        """Both images still hold the source."""
        for copied in (self._copied, self._other):
            assert_equal(self._disk, copied.image)
            copied.image.unlink()
        self._disk.unlink()


def _changed(bench: Bench) -> Iterator[Range]:
    """One range in each cell of the disk, anywhere in it and of any length that leaves a gap."""
    dice = random.Random(_SEED)
    blocks = bench.capacity_bytes // _BLOCK_BYTES
    count = _MOST_RANGES if blocks > 8 * _MOST_RANGES else blocks // 8
    for number in range(count):
        first, stop = number * blocks // count, (number + 1) * blocks // count
        length = dice.randint(1, stop - first - 1)
        start = dice.randint(first, stop - length - 1)
        yield Range(start * _BLOCK_BYTES, length * _BLOCK_BYTES)


def _change(disk: Path, ranges: list[Range]) -> None:
    """Write into the ranges what a guest would: data, and zeroes here and there."""
    block = random.Random(_SEED).randbytes(max(each.length_bytes for each in ranges))
    with disk.open("r+b") as file:
        for number, (offset, length) in enumerate(ranges):
            file.seek(offset)
            zeroed = number % (_DATA_PER_ZEROED + 1) == 0
            file.write(
                bytes(length) if zeroed else number.to_bytes(512, "little") + block[512:length]
            )
        file.flush()
        os.fsync(file.fileno())
