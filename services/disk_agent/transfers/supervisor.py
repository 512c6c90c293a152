"""Starts worker processes, reads their reports, and ends every process that they started."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import structlog

from services.config import Secret
from services.disk_agent.chunk_map.digests import XXH3_128
from services.disk_agent.transfer_failures import HostFailed, WorkerDied
from services.disk_agent.worker.order import TransferOrder, WorkerOrder
from services.kit.processes.control import find_processes, group_is_alive
from services.kit.processes.service import exits_within

# The time that nbdkit gets to close its session with vCenter or ESXi before it is killed.
_GROUP_GRACE_SECONDS = 5.0
_STEP_SECONDS = 0.05
_STOP_SECONDS = 20.0
_KEPT_LINES = 20
_LINE_LIMIT_BYTES = 1 << 20
# The limit of unix(7), and the longest file name among a worker's sockets.
_SOCKET_PATH_BYTES = 107
_LONGEST_NAME = "target.sock"
# The programs that a worker starts. They end with it, except when they are stopped (SIGSTOP).
_SERVERS = (b"qemu-nbd", b"nbdkit")

_log = structlog.stdlib.get_logger(__name__)

Event = Mapping[str, Any]


class RunningWorker(Protocol):
    """A worker that was started."""

    def command(self, name: str, **values: int) -> None:
        """Send a command (see `services.disk_agent.worker`); no error if the worker has ended."""
        ...

    async def run(self, on_event: Callable[[Event], None]) -> Event:
        """Read events until the worker ends; returns its end event, or raises WorkerDied."""
        ...

    async def stop(self, command: str = "stop") -> None:
        """Have the worker checkpoint and end, or kill it; `run` returns or raises then."""
        ...


class WorkerLauncher(Protocol):
    """Starts workers."""

    async def launch(
        self, order: TransferOrder, *, map_path: Path, ranges_path: str, rate: int, password: Secret
    ) -> RunningWorker:
        """Start the worker of a transfer with a rate limit in bytes a second, 0 for none."""
        ...


class ProcessLauncher:
    """Workers as child processes, each in a process group and a private folder of its own.

    Must be used from the main thread: a worker dies with the thread that started it.
    """

    def __init__(
        self,
        runtime_dir: Path,
        *,
        checkpoint_seconds: float,
        checkpoint_bytes: int,
        cache: str = "auto",
        digest: str = XXH3_128,
    ) -> None:
        self._runtime_dir = runtime_dir
        self._checkpoint_seconds = checkpoint_seconds
        self._checkpoint_bytes = checkpoint_bytes
        self._cache = cache
        self._digest = digest

    async def launch(
        self, order: TransferOrder, *, map_path: Path, ranges_path: str, rate: int, password: Secret
    ) -> RunningWorker:
        """Start ``python -m services.disk_agent.worker`` and send it its order."""
        # Before a process is started, because the secret's variable or file may be missing.
        revealed = password.get_secret_value()
        folder = await asyncio.to_thread(self._make_folder)
        worker_order = WorkerOrder(
            transfer=order,
            map_path=str(map_path),
            ranges_path=ranges_path,
            runtime_dir=str(folder),
            rate_bytes_per_second=rate,
            checkpoint_seconds=self._checkpoint_seconds,
            checkpoint_bytes=self._checkpoint_bytes,
            cache=self._cache,
            digest=self._digest,
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.disk_agent.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_LIMIT_BYTES,
            start_new_session=True,
        )
        worker = WorkerProcess(process, folder)
        worker.send(
            {
                "order": worker_order.to_wire(),
                "password": revealed,
                "parent_pid": os.getpid(),
            }
        )
        return worker

    def _make_folder(self) -> Path:
        self._runtime_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = Path(tempfile.mkdtemp(prefix="w-", dir=self._runtime_dir))
        longest = len(os.fsencode(folder / _LONGEST_NAME))
        if longest > _SOCKET_PATH_BYTES:
            folder.rmdir()
            raise HostFailed(
                f"the path of the folder for sockets, {self._runtime_dir}, is too long: "
                f"{longest} bytes with a socket's name, at most {_SOCKET_PATH_BYTES} are possible",
                retryable=False,
                hint="set TMPDIR to a folder with a short path, such as /tmp",
            )
        return folder

    def sweep(self) -> int:
        """Kill the servers, and remove the folders, that workers of an earlier agent left.

        Returns the number of processes. Blocks.
        """
        swept = kill_processes_below(self._runtime_dir, "w-")
        for left in self._runtime_dir.glob("w-*"):
            shutil.rmtree(left, ignore_errors=True)
        return swept


def kill_processes_below(folder: Path, prefix: str = "") -> int:
    """Kill this user's qemu-nbd and nbdkit that have a socket in a folder. Returns how many.

    They are recognised by their command lines. Process ids are not used: they may have been reused.
    """
    path = f"={folder}/{prefix}".encode()

    def is_ours(process: Path) -> bool:
        program, *arguments = (process / "cmdline").read_bytes().split(b"\0")
        ours = process.stat().st_uid == os.geteuid()
        return ours and program in _SERVERS and any(path in each for each in arguments)

    killed = 0
    for pid in find_processes(is_ours):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
            killed += 1
    return killed


class WorkerProcess:
    """One worker process and the processes it started."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._stderr: deque[str] = deque(maxlen=_KEPT_LINES)

    def send(self, message: Mapping[str, object]) -> None:
        """Send one JSON line; it is dropped if the worker has closed its standard input."""
        stdin = self._process.stdin
        if stdin is not None and not stdin.is_closing():
            stdin.write(json.dumps(message).encode() + b"\n")

    def command(self, name: str, **values: int) -> None:
        """Send a command."""
        self.send({"command": name, **values})

    async def run(self, on_event: Callable[[Event], None]) -> Event:
        """Read the worker's events until it ends, then end its process group."""
        end: Event | None = None
        reading = asyncio.create_task(self._read_stderr())
        try:
            stdout = self._process.stdout
            if stdout is None:
                raise TypeError("no stdout of the worker")
            async for line in stdout:
                event: Event = json.loads(line)
                if event["event"] == "end":
                    end = event
                else:
                    on_event(event)
            status = await self._process.wait()
            await reading
        finally:
            await asyncio.shield(asyncio.create_task(self._clean_up()))
        if end is None:
            raise self._death(status)
        if self._stderr:
            _log.warning(
                "a worker wrote to stderr",
                action="worker.said",
                stderr="\n".join(self._stderr),
            )
        return end

    async def stop(self, command: str = "stop") -> None:
        """Have the worker checkpoint and end; kill it if it has not ended after a while.

        A worker that is opening its source reads no commands until libvixDiskLib gives up.
        """
        self.command(command)
        if not await exits_within(self._process, _STOP_SECONDS):
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _read_stderr(self) -> None:
        stderr = self._process.stderr
        if stderr is None:
            raise TypeError("no stderr of the worker")
        async for line in stderr:
            self._stderr.append(line.decode(errors="replace").rstrip())

    def _death(self, status: int) -> WorkerDied:
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        _log.error("a worker died", action="worker.died", how=how, stderr="\n".join(self._stderr))
        return WorkerDied(f"the worker process exited without reporting a result ({how})")

    async def _clean_up(self) -> None:
        """End the worker's whole process group and remove its folder."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        group = self._process.pid
        waited = 0.0
        while group_is_alive(group) and waited < _GROUP_GRACE_SECONDS:
            await asyncio.sleep(_STEP_SECONDS)
            waited += _STEP_SECONDS
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
