"""The worker process of one transfer: ``python -m services.disk_agent.worker``.

Reads JSON lines from standard input: first the order with its secrets, then commands (rate, pause,
resume, cancel, stop). Writes progress, notices and the end as JSON lines to standard output::

    {"order": {…}, "password": "…", "parent_pid": 1}     ->
    {"command": "rate", "bytes_per_second": 0}            ->
    <- {"event": "progress", "progress": {…}}
    <- {"event": "notice", "message": "…"}
    <- {"event": "end", "failure": {…} | null, "digest": "…", "progress": {…}}

It ends when the agent ends, and nbdkit and qemu-nbd end with it.
"""

import errno
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from services.disk_agent.chunk_map.file import recorded_chunk_bytes
from services.disk_agent.engine.control import Control
from services.disk_agent.engine.core import Tuning
from services.disk_agent.engine.endpoint import Endpoint, Side
from services.disk_agent.engine.limit import RateLimit
from services.disk_agent.engine.ranges import Range
from services.disk_agent.transfer_failures import (
    AgentStopped,
    HostFailed,
    SourceFailed,
    SourceUnusable,
    TargetFull,
    TransferCancelled,
    TransferFailure,
)
from services.disk_agent.worker.disk_pass import DiskPass, Surroundings
from services.disk_agent.worker.metadata_repair import repair
from services.disk_agent.worker.order import WorkerOrder
from services.disk_agent.worker.password import Password
from services.disk_agent.worker.qemu_nbd import TargetServer
from services.disk_agent.worker.range_sets import load_ranges
from services.disk_agent.worker.sources import Source, source_for
from services.kit.processes.control import die_with_parent

# The attempts to open the source, the wait before the second one, which doubles with each further
# attempt, and the longest wait.
_OPEN_ATTEMPTS = 5
_OPEN_SECONDS = 1.0
_OPEN_LIMIT_SECONDS = 15.0
_READ_BYTES = 1 << 16


class PipeControl(Control):
    """Reads commands as JSON lines from a pipe. When the pipe ends, the agent has ended."""

    def __init__(self, limit: RateLimit, fd: int, rest: bytes) -> None:
        super().__init__(limit)
        self._fd = fd
        self._rest = rest
        os.set_blocking(fd, False)
        self._take_lines()

    def fileno(self) -> int:
        """The pipe's descriptor."""
        return self._fd

    def receive(self) -> None:
        """Carry out the commands that have arrived."""
        try:
            some = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        if not some:
            self.stop = AgentStopped("the disk agent is gone")
            return
        self._rest += some
        self._take_lines()

    def _take_lines(self) -> None:
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            command = json.loads(line)
            match command["command"]:
                case "rate":
                    self.limit.set_rate(int(command["bytes_per_second"]))
                case "pause" | "resume":
                    self.paused = command["command"] == "pause"
                case "cancel":
                    self.stop = TransferCancelled("the transfer was cancelled")
                case "stop":
                    self.stop = AgentStopped("the disk agent is stopping")
                case other:
                    raise ValueError(f"unknown command {other!r}")


class Worker:
    """Runs one transfer from its order to its end."""

    def __init__(
        self,
        order: WorkerOrder,
        password: str,
        control: Control,
        emit: Callable[[dict[str, object]], None],
    ) -> None:
        self._order = order
        self._control = control
        self._emit = emit
        transfer = order.transfer
        runtime_dir = Path(order.runtime_dir)
        self._source: Source | None = None
        if transfer.source is not None:
            self._source = source_for(
                transfer.source,
                Password(password),
                runtime_dir,
                # A map that exists keeps its chunks, whatever the order asks for.
                read_bytes=max(transfer.chunk_bytes, recorded_chunk_bytes(Path(order.map_path))),
            )
        ranges: list[Range] = load_ranges(Path(order.ranges_path)) if order.ranges_path else []
        self._pass = DiskPass(
            transfer,
            Path(order.map_path),
            ranges,
            Surroundings(
                control=control,
                tuning=Tuning(
                    depth=transfer.queue_depth,
                    checkpoint_seconds=order.checkpoint_seconds,
                    checkpoint_bytes=order.checkpoint_bytes,
                ),
                notice=lambda message: emit({"event": "notice", "message": message}),
                report=self._report,
                digest=order.digest,
            ),
        )

    def run(self) -> None:
        """Run to the end and report it as an event. An exception that gets out is a defect."""
        failure: TransferFailure | None = None
        try:
            self._copy()
        except TargetFull as error:
            failure = self._with_space(error)
        except TransferFailure as error:
            failure = error
        except OSError as error:
            # The chunk map needs space too, in the agent's state folder or wherever it was put.
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            failure = self._map_full(error) if full else HostFailed.of(error)
            # The traceback is for the agent's log: the cause may be a defect.
            traceback.print_exc()
        self._emit(
            {
                "event": "end",
                "failure": failure.failure.to_wire() if failure is not None else None,
                "digest": self._pass.digest,
                "progress": self._pass.meter.snapshot().to_wire(),
            }
        )

    def _copy(self) -> None:
        transfer = self._order.transfer
        server = TargetServer(
            Path(transfer.target_path),
            Path(self._order.runtime_dir),
            writable=transfer.mode.writes,
            cache=self._order.cache,
            open_mark=Path(f"{self._order.map_path}.open"),
            repairing=self._repair,
        )
        with server:
            if self._source is None or not self._pass.needs_source():
                self._run_pass(None, server)
                return
            attempt = 0
            while True:
                attempt += 1
                done_before = self._pass.meter.snapshot().done_bytes
                try:
                    with self._source.open() as source:
                        self._run_pass(source, server)
                    return
                except (SourceFailed, SourceUnusable) as error:
                    # Progress resets the count of attempts, but not in a mode that only reads: such
                    # a mode begins anew each time, and could do that for ever.
                    resumes = transfer.mode.copies
                    if resumes and self._pass.meter.snapshot().done_bytes > done_before:
                        attempt = 1
                    if not error.retryable or attempt >= _OPEN_ATTEMPTS:
                        raise
                    self._wait_before_reopening(error, attempt)

    def _repair(self, image: Path) -> None:
        self._emit({"event": "notice", "message": f"{image} was not closed: it is checked first"})
        repair(image, self._wait)

    def _wait(self, seconds: float) -> None:
        """Wait; raises the failure that stops the transfer if a command sets one meanwhile."""
        self._control.wait(seconds)
        if self._control.stop is not None:
            raise self._control.stop

    def _run_pass(self, source: Endpoint | None, server: TargetServer) -> None:
        with ExitStack() as stack:
            target = Endpoint(server.uri, Side.TARGET)
            stack.callback(target.close)
            self._pass.run(source, target)

    def _wait_before_reopening(self, error: TransferFailure, attempt: int) -> None:
        self._emit({"event": "notice", "message": f"opening the source again: {error.message}"})
        self._pass.meter.source_reopened += 1
        self._wait(min(_OPEN_SECONDS * 2 ** (attempt - 1), _OPEN_LIMIT_SECONDS))

    def _report(self) -> None:
        self._emit({"event": "progress", "progress": self._pass.meter.snapshot().to_wire()})

    def _map_full(self, error: OSError) -> TargetFull:
        folder = Path(self._order.map_path).parent
        return TargetFull(
            f"the file system of the chunk map, {folder}, is full: {error.strerror}",
            hint=f"make space in {folder}, then retry: the copy resumes where it stopped",
        )

    def _with_space(self, error: TargetFull) -> TargetFull:
        stats = os.statvfs(Path(self._order.transfer.target_path).parent)
        progress = self._pass.meter.snapshot()
        free = stats.f_bavail * stats.f_frsize
        needed = max(progress.total_bytes - progress.done_bytes, 0)
        to_copy = f", up to {needed} bytes still to copy" if needed else ""
        error.amend(
            f"{error.message} ({free} bytes free{to_copy})",
            free_bytes=str(free),
            needed_bytes=str(needed),
        )
        return error


def _read_line(fd: int) -> tuple[bytes, bytes]:
    """The first line of a pipe, and the bytes after it that were read with it."""
    got = b""
    while b"\n" not in got:
        some = os.read(fd, _READ_BYTES)
        if not some:
            raise EOFError("no order on standard input")
        got += some
    line, rest = got.split(b"\n", 1)
    return line, rest


def main() -> int:
    """The process's entry point. Returns 0 whenever the end was reported, also a failure."""
    stdin, stdout = sys.stdin.fileno(), sys.stdout.fileno()
    line, rest = _read_line(stdin)
    received: dict[str, Any] = json.loads(line)
    die_with_parent(int(received["parent_pid"]))
    order = WorkerOrder.from_wire(received["order"])

    def emit(event: dict[str, object]) -> None:
        os.write(stdout, json.dumps(event).encode() + b"\n")

    limit = RateLimit(order.rate_bytes_per_second, time.monotonic)
    control = PipeControl(limit, stdin, rest)
    try:
        worker = Worker(order, str(received.get("password", "")), control, emit)
    except (TransferFailure, OSError) as error:
        failure = error if isinstance(error, TransferFailure) else HostFailed.of(error)
        emit({"event": "end", "failure": failure.failure.to_wire(), "digest": "", "progress": {}})
        return 0
    worker.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
