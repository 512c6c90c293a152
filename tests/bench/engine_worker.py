"""The product's worker process as a contender, driven as the agent drives it."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.disk_agent.chunk_map.digests import XXH3_128
from services.disk_agent.engine.progress import Progress
from services.disk_agent.worker.modes import Mode
from services.disk_agent.worker.order import NbdSpec, TransferOrder, WorkerOrder
from services.kit.processes.control import group_is_alive
from tests.bench.processes import BenchFailed, Processes

MODULE = "services.disk_agent.worker"
WITHOUT_DIGESTS = "tests.bench.without_digests"
_STEP_SECONDS = 0.005
_DISK_ID = "vm-1/2000"


@dataclass(frozen=True)
class Copied:
    """The files of one image that was, or is to be, copied by the engine."""

    image: Path
    map_path: Path
    sockets: Path

    @classmethod
    def below(cls, folder: Path, sockets: Path, name: str) -> "Copied":
        """An image with its map in a folder, and where workers may have folders for sockets."""
        return cls(folder / f"{name}.qcow2", folder / f"{name}.map", sockets)

    def forget(self) -> None:
        """Begin with a new map."""
        self.map_path.unlink(missing_ok=True)
        Path(f"{self.map_path}.open").unlink(missing_ok=True)


@dataclass
class EngineWorker:
    """One worker process at work."""

    processes: Processes
    process: subprocess.Popen[bytes]

    def command(self, name: str, **values: int) -> None:
        """Send a command."""
        if self.process.stdin is not None:
            self.process.stdin.write(json.dumps({"command": name, **values}).encode() + b"\n")

    def finish(self) -> Progress:
        """Follow it to its end. Raises BenchFailed unless the pass succeeded."""
        end = self._end()
        if end["failure"] is not None:
            raise BenchFailed(f"the worker failed: {end['failure']['message']}")
        return Progress.from_wire(end["progress"])

    def kill(self) -> None:
        """SIGKILL it, and wait like the agent until nothing of its process group is left."""
        self.process.kill()
        self.processes.reap(self.process)
        while group_is_alive(self.process.pid):
            time.sleep(_STEP_SECONDS)

    def abandon(self) -> None:
        """Cancel the pass and wait for the worker's end."""
        self.command("cancel")
        self._end()

    def _end(self) -> dict[str, Any]:
        end: dict[str, Any] | None = None
        if self.process.stdout is not None:
            for line in self.process.stdout:
                event = json.loads(line)
                end = event if event["event"] == "end" else end
        status = self.processes.reap(self.process)
        if end is None:
            raise BenchFailed(f"the worker ended with {status} and printed no result")
        return end


def start_worker(
    processes: Processes,
    copied: Copied,
    source_uri: str | None,
    capacity_bytes: int,
    *,
    mode: Mode = Mode.FULL,
    pass_number: int = 0,
    ranges: Path | None = None,
    module: str = MODULE,
    rate: int = 0,
    checkpoint_bytes: int = 1 << 30,
    digest: str = XXH3_128,
) -> EngineWorker:
    """Start a worker with the product's defaults on one disk."""
    # Each worker has a folder of its own, as the agent gives it one.
    runtime_dir = tempfile.mkdtemp(dir=copied.sockets)
    order = WorkerOrder(
        transfer=TransferOrder(
            transfer_id="bench",
            mode=mode,
            source=NbdSpec(source_uri) if source_uri else None,
            target_path=str(copied.image),
            capacity_bytes=capacity_bytes,
            disk_id=_DISK_ID,
            snapshot_id=f"snapshot-{pass_number}",
            pass_number=pass_number,
            ranges_id=ranges.stem if ranges else "",
        ),
        map_path=str(copied.map_path),
        ranges_path=str(ranges or ""),
        runtime_dir=runtime_dir,
        rate_bytes_per_second=rate,
        checkpoint_bytes=checkpoint_bytes,
        digest=digest,
    )
    process = processes.start([sys.executable, "-m", module], talk=True, own_group=True)
    message = {"order": order.to_wire(), "password": "", "parent_pid": os.getpid()}
    if process.stdin is None:
        raise BenchFailed("the worker has no standard input")
    process.stdin.write(json.dumps(message).encode() + b"\n")
    return EngineWorker(processes, process)
