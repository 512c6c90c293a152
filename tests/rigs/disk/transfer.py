"""Sources, images and passes for tests of the copy engine; qemu-img compares the results.

A disk is written as a string, one letter per 64 KiB block: ``-`` is a hole, ``0`` allocated
zeroes, any other character a block full of it.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbd

from services.disk_agent.chunk_map.digests import XXH3_128
from services.disk_agent.engine.control import Control
from services.disk_agent.engine.core import Tuning
from services.disk_agent.engine.endpoint import Endpoint, Side
from services.disk_agent.engine.limit import RateLimit
from services.disk_agent.engine.progress import Progress
from services.disk_agent.engine.ranges import Range
from services.disk_agent.transfer_failures import SourceLost
from services.disk_agent.worker.disk_pass import DiskPass, Surroundings
from services.disk_agent.worker.modes import Mode
from services.disk_agent.worker.order import NbdSpec, TransferOrder
from services.disk_agent.worker.qemu_nbd import TargetServer

BLOCK = 64 << 10
CHUNK = 256 << 10
TUNING = Tuning(depth=4, retry_seconds=0.01, report_seconds=0.001, checkpoint_seconds=0.02)


def block(letter: str) -> bytes:
    """The content of one block."""
    return (b"\0" if letter in "0-" else letter.encode()) * BLOCK


def write_disk(path: Path, letters: str, *, extra_bytes: int = 0) -> int:
    """Make a raw disk; returns its size. `extra_bytes` lie behind the last block."""
    size = len(letters) * BLOCK + extra_bytes
    with path.open("wb") as file:
        file.truncate(size)
        for index, letter in enumerate(letters):
            if letter != "-":
                file.seek(index * BLOCK)
                file.write(block(letter))
        if extra_bytes:
            file.seek(size - extra_bytes)
            file.write(b"t" * extra_bytes)
    return size


def overwrite(path: Path, index: int, letters: str) -> Range:
    """Write blocks into a raw disk; a ``-`` punches a hole. Returns the area."""
    with path.open("r+b") as file:
        for number, letter in enumerate(letters):
            file.seek((index + number) * BLOCK)
            file.write(block(letter))
    return Range(index * BLOCK, len(letters) * BLOCK)


@contextlib.contextmanager
def serving(
    folder: Path, *arguments: str, name: str = "source", writable: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """An nbdkit on ``folder/source.sock``, or of another name."""
    socket, pidfile = folder / f"{name}.sock", folder / f"{name}.pid"
    socket.unlink(missing_ok=True)
    pidfile.unlink(missing_ok=True)
    command = ["nbdkit", "-f", "--exit-with-parent", "-U", str(socket), "-P", str(pidfile)]
    access = [] if writable else ["-r"]
    server = subprocess.Popen([*command, *access, *arguments], stderr=subprocess.DEVNULL)
    try:
        while not pidfile.exists():
            assert server.poll() is None, "nbdkit did not start"
            time.sleep(0.005)
        yield server
    finally:
        server.kill()
        server.wait()


@dataclass
class Outcome:
    """What a pass reported."""

    progress: Progress
    digest: str
    # The sum of which `done_bytes` is made, before it is limited to the total.
    accounted_bytes: int = 0
    notices: list[str] = field(default_factory=list)


class Rig:
    """One disk to copy: a raw source, an image, and a chunk map."""

    def __init__(self, folder: Path, letters: str, *, extra_bytes: int = 0) -> None:
        self.folder = folder
        self.source = folder / "source.raw"
        self.image = folder / "target.qcow2"
        self.map = folder / "disk.map"
        self.chunk_bytes = CHUNK
        self.digest = XXH3_128
        self.size = write_disk(self.source, letters, extra_bytes=extra_bytes)
        create_image(self.image, self.size)

    def order(
        self, mode: Mode, *, number: int = 0, snapshot: str = "s0", ranges_id: str = ""
    ) -> TransferOrder:
        """An order for the rig's disk with its present size."""
        return TransferOrder(
            transfer_id=f"t{number}",
            mode=mode,
            source=NbdSpec(self.uri),
            target_path=str(self.image),
            capacity_bytes=self.source.stat().st_size,
            disk_id="vm-1/2000",
            snapshot_id=snapshot,
            pass_number=number,
            ranges_id=ranges_id,
            queue_depth=TUNING.depth,
            chunk_bytes=self.chunk_bytes,
        )

    def run_to(self, mode: Mode, target_uri: str, tuning: Tuning = TUNING) -> None:
        """Run a pass with the rig's source and map, and another target than the image."""
        around = Surroundings(
            Control(RateLimit(0, time.monotonic)), tuning, notice=print, report=lambda: None
        )
        with serving(self.folder, "file", str(self.source)), contextlib.ExitStack() as ends:
            source, target = Endpoint(self.uri, Side.SOURCE), Endpoint(target_uri, Side.TARGET)
            ends.callback(target.close)
            ends.callback(source.close)
            DiskPass(self.order(mode), self.map, [], around).run(source, target)

    @property
    def uri(self) -> str:
        """The URI that `serving` serves at."""
        return f"nbd+unix:///?socket={self.folder}/source.sock"

    def run(
        self,
        mode: Mode = Mode.FULL,
        *,
        number: int = 0,
        snapshot: str = "s0",
        ranges: list[Range] | None = None,
        server: tuple[str, ...] | None = None,
        tuning: Tuning = TUNING,
        on_report: Callable[[Control, Progress], None] | None = None,
        with_source: bool = True,
        before: Callable[[], None] | None = None,
        cache: str = "auto",
        reopens: bool = False,
    ) -> Outcome:
        """Run one pass in this process. `server` replaces nbdkit's arguments that serve the file.

        With `reopens` the pass continues after the source was lost, as in a worker.
        """
        control = Control(RateLimit(0, time.monotonic))
        outcome = Outcome(Progress(), "")

        def report() -> None:
            if on_report is not None:
                on_report(control, disk_pass.meter.snapshot())

        rebased = "rebased" if ranges is not None and mode is Mode.FULL else ""
        disk_pass = DiskPass(
            self.order(mode, number=number, snapshot=snapshot, ranges_id=rebased),
            self.map,
            ranges or [],
            Surroundings(control, tuning, outcome.notices.append, report, digest=self.digest),
        )
        arguments = server or ("file", str(self.source))
        with contextlib.ExitStack() as stack:
            target = stack.enter_context(
                TargetServer(
                    self.image,
                    self.folder,
                    writable=mode.writes,
                    cache=cache,
                    open_mark=self.folder / "open",
                )
            )
            while True:
                try:
                    with contextlib.ExitStack() as ends:
                        ends.enter_context(serving(self.folder, *arguments))
                        source = Endpoint(self.uri, Side.SOURCE) if with_source else None
                        if source is not None:
                            ends.callback(source.close)
                        endpoint = Endpoint(target.uri, Side.TARGET)
                        ends.callback(endpoint.close)
                        if before is not None:
                            before()
                        disk_pass.run(source, endpoint)
                    break
                except SourceLost:
                    if not reopens:
                        raise
        meter = disk_pass.meter
        outcome.progress = meter.snapshot()
        outcome.accounted_bytes = (
            meter.resumed_bytes + meter.copied_bytes + meter.zero_bytes + meter.skipped_bytes
        )
        outcome.digest = disk_pass.digest
        return outcome

    def damage(self, offset: int, content: bytes) -> None:
        """Write into the image without the engine."""
        with TargetServer(self.image, self.folder, writable=True) as server:
            handle = nbd.NBD()
            handle.connect_uri(server.uri)
            handle.pwrite(content, offset)
            handle.flush()
            handle.shutdown()

    def assert_identical(self) -> None:
        """Compare source and image byte by byte, and check the image's structure."""
        assert_identical(self.source, self.image)


def create_image(path: Path, size_bytes: int) -> None:
    """Create an empty QCOW2; its size is rounded up to a sector, as QCOW2 needs."""
    rounded = -(-size_bytes // 512) * 512
    command = ["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(rounded)]
    subprocess.run(command, check=True)


def assert_identical(source: Path, image: Path) -> None:
    """Compare the content of a raw disk and of an image; holes equal zeroes."""
    compared = subprocess.run(
        ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(source), str(image)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert compared.returncode == 0, compared.stdout + compared.stderr
    subprocess.run(["qemu-img", "check", "-q", str(image)], check=True)


def is_root() -> bool:
    """Whether this user can mount file systems."""
    return os.geteuid() == 0
