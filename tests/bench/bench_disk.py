"""The disk that is copied, and where a bench works."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.processes import BenchFailed

_MIB = 1 << 20
_GIB = 1 << 30
# Half as many allocated zeroes as data: a disk that was in use has freed blocks.
_DATA_RUN_BYTES = 24 * _MIB
_ZERO_RUN_BYTES = 12 * _MIB
_SEED = 20


@dataclass(frozen=True)
class Shape:
    """Sizes of the disk. Data and allocated zeroes alternate, holes fill the rest."""

    capacity_bytes: int
    data_bytes: int
    zero_bytes: int


QUICK = Shape(64 * _MIB, 24 * _MIB, 12 * _MIB)


def fitting_shape(folder: Path) -> Shape:
    """4 GiB with 1.6 GiB of data and half as many zeroes, or less where memory or storage is short.

    The source has to stay in the page cache: otherwise the storage below it is measured.
    """
    memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _cached_bytes()
    room = min(memory // 3, shutil.disk_usage(folder).free // 6)
    data = min(room, 1632 * _MIB) // _DATA_RUN_BYTES * _DATA_RUN_BYTES
    if data < 4 * _DATA_RUN_BYTES:
        raise BenchFailed(f"too little memory or storage for a bench in {folder}")
    runs = data // _DATA_RUN_BYTES
    return Shape(data * 5 // 2 // _GIB * _GIB or _GIB, data, runs * _ZERO_RUN_BYTES)


@dataclass(frozen=True)
class BenchDisk:
    """The raw source and what is known of it."""

    path: Path
    shape: Shape

    def data_runs(self) -> Iterator[tuple[int, int]]:
        """The runs of data as (offset, length) in bytes."""
        runs = self.shape.data_bytes // _DATA_RUN_BYTES
        stride = self.shape.capacity_bytes // runs // _MIB * _MIB
        for number in range(runs):
            yield number * stride, _DATA_RUN_BYTES

    def make(self) -> None:
        """Write it. Its pages stay in the page cache, clean."""
        block = random.Random(_SEED).randbytes(_DATA_RUN_BYTES)
        zeroes = bytes(self.shape.zero_bytes // (self.shape.data_bytes // _DATA_RUN_BYTES))
        with self.path.open("wb") as file:
            file.truncate(self.shape.capacity_bytes)
            for number, (offset, _) in enumerate(self.data_runs()):
                file.seek(offset)
                # Every run differs, so that a chunk in the wrong place would be seen.
                file.write(number.to_bytes(512, "little") + block[512:])
                file.write(zeroes)
            file.flush()
            os.fsync(file.fileno())


def create_image(path: Path, capacity_bytes: int) -> Path:
    """A new empty QCOW2 image in place of an old one; the old one's blocks are given back first."""
    path.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(capacity_bytes)], check=True
    )
    return path


def assert_equal(source: Path, image: Path) -> None:
    """Raise BenchFailed unless an image holds what the source holds: speed counts only then."""
    compared = subprocess.run(
        ["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", str(source), str(image)],
        check=False,
    )
    if compared.returncode:
        raise BenchFailed(f"{image.name} differs from the source")


def _cached_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Cached:"):
            return int(line.split()[1]) << 10
    return 0
