"""One service as a child process: start, readiness, end, and why it did not start."""

import asyncio
import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from services.kit.channel import await_serving
from services.kit.errors import RemoteError
from services.kit.processes.service import exits_within, read_ready_file
from services.kit.tls import TlsFiles

__all__ = ["ServiceCommand", "ServiceFailed", "ServiceProcess"]

_POLL_SECONDS = 0.05
_TAIL_BYTES = 4096
_TAIL_LINES = 12


class ServiceFailed(Exception):
    """A service ended, or was not ready in time; `str()` is why, with its own message."""


@dataclass(frozen=True, slots=True)
class ServiceCommand:
    """How to start a service. `listen` is its address; only gRPC services have health checks."""

    name: str
    module: str
    listen: str
    grpc: bool = True


class ServiceProcess:
    """A running child. It ends when this process does, and only this process ends it."""

    def __init__(self, command: ServiceCommand, process: asyncio.subprocess.Process) -> None:
        self.command = command
        self._process = process

    @classmethod
    async def start(
        cls, command: ServiceCommand, config_path: Path, control_dir: Path
    ) -> "ServiceProcess":
        """Start it; its log is ``control_dir/logs/<name>.log``, what it prints is beside it."""
        ready_file = _ready_file(control_dir, command.name)
        ready_file.unlink(missing_ok=True)
        with _errors_file(control_dir, command.name).open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                command.module,
                *("--config", str(config_path)),
                *("--listen", command.listen),
                *("--ready-file", str(ready_file)),
                *("--parent-pid", str(os.getpid())),
                *("--log-format", "none"),
                *("--log-file", str(log_file(control_dir, command.name))),
                stdin=asyncio.subprocess.DEVNULL,
                # Standard output is for people: the gateway prints its first token there.
                stderr=errors,
                # Ctrl-C goes to the terminal's whole group; services are stopped in order instead.
                start_new_session=True,
            )
        return cls(command, process)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    async def wait(self) -> int:
        """Wait for its end; the exit status, negative for a signal."""
        return await self._process.wait()

    async def ready(self, control_dir: Path, tls: TlsFiles | None, timeout_seconds: float) -> str:
        """Wait until it serves; the address it is bound to.

        Raises ServiceFailed when it ends first or takes too long.
        """
        ended = asyncio.create_task(self._process.wait())
        serving = asyncio.create_task(self._serving(control_dir, tls, timeout_seconds))
        try:
            await asyncio.wait({ended, serving}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise ServiceFailed(why_it_ended(self.command.name, ended.result(), control_dir))
            try:
                return serving.result()
            except (TimeoutError, RemoteError) as exc:
                log = log_file(control_dir, self.command.name)
                raise ServiceFailed(
                    f"{self.command.name} is not ready after {timeout_seconds:.0f} s; see {log}"
                ) from exc
        finally:
            for task in (ended, serving):
                task.cancel()
            await asyncio.gather(ended, serving, return_exceptions=True)

    async def stop(self, grace_seconds: float) -> None:
        """SIGTERM, and SIGKILL when it takes longer than `grace_seconds`."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        if not await exits_within(self._process, grace_seconds):
            await self.kill()

    async def kill(self) -> None:
        """SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def _serving(
        self, control_dir: Path, tls: TlsFiles | None, timeout_seconds: float
    ) -> str:
        ready_file = _ready_file(control_dir, self.command.name)
        async with asyncio.timeout(timeout_seconds):
            while (readiness := read_ready_file(ready_file)) is None:  # noqa: ASYNC110 - a file
                await asyncio.sleep(_POLL_SECONDS)
        if self.command.grpc:
            await await_serving(
                readiness.address, tls, timeout_seconds=timeout_seconds, name=self.command.name
            )
        return readiness.address


def log_file(control_dir: Path, name: str) -> Path:
    """A service's log, JSON lines."""
    return control_dir / "logs" / f"{name}.log"


def why_it_ended(name: str, status: int, control_dir: Path) -> str:
    """How the service ended, with its own error message or a traceback's last line."""
    message = _stderr_tail(_errors_file(control_dir, name))
    how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    log = log_file(control_dir, name)
    if not message:
        return f"{name} {how}; see {log}"
    return f"{name} {how}: {message} (log: {log})"


def _stderr_tail(path: Path) -> str:
    try:
        data = path.read_bytes()[-_TAIL_BYTES:]
    except FileNotFoundError:
        return ""
    lines = [line for line in data.decode(errors="replace").splitlines() if line.strip()]
    # Of a defect's traceback the last line is the message, of an error's paragraph all lines are.
    if any(line.startswith("Traceback (") for line in lines):
        lines = lines[-1:]
    return " ".join(line.strip() for line in lines[-_TAIL_LINES:])


def _errors_file(control_dir: Path, name: str) -> Path:
    return control_dir / "logs" / f"{name}.stderr"


def _ready_file(control_dir: Path, name: str) -> Path:
    return control_dir / "run" / f"{name}.ready"
