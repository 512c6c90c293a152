"""A service as a child process: bound to its parent's life, with a file that says it is ready."""

import asyncio
import contextlib
import json
import os
import signal
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from services.kit.failure import Code, ServiceError
from services.kit.processes.control import signal_on_parent_death

_POLL_SECONDS = 0.5
# How long a process that was asked to stop may take before the kernel ends it.
_KILL_AFTER_SECONDS = 30.0


@dataclass(frozen=True)
class Readiness:
    """What a service writes to its ready file: the address it is bound to and its process id."""

    address: str
    pid: int


class ReadyFileError(ServiceError):
    """The content of a ready file is not what a service writes."""

    code = Code.INTERNAL
    reason = "READY_FILE_INVALID"
    hint = "remove the file and start the service again"


def write_ready_file(path: Path, address: str) -> None:
    """Write ``{"address": …, "pid": …}`` atomically: no reader sees a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({"address": address, "pid": os.getpid()}, file)
    os.replace(temporary, path)


def read_ready_file(path: Path, pid: int | None = None) -> Readiness | None:
    """What the service wrote to its ready file; None if there is none yet. Raises ReadyFileError.

    `pid` is the process that was just started: a file that another process left counts as none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        document = json.loads(text)
        ready = Readiness(address=str(document["address"]), pid=int(document["pid"]))
    except (ValueError, KeyError, TypeError) as exc:
        raise ReadyFileError(message=f"{path} is not a ready file") from exc
    return ready if pid in (None, ready.pid) else None


def exit_with_parent(parent_pid: int | None = None) -> None:
    """Bind this process's life to its parent's: SIGTERM when the parent is gone, SIGKILL later.

    Call it from the main thread, early. `parent_pid` is the parent's pid as the parent knows it
    (handed over in argv or the environment); with it, a parent that died before this call is
    noticed. Without it the present parent counts.

    The kernel's own signal (prctl(2), PR_SET_PDEATHSIG) comes when the *thread* that started this
    process ends, which may be earlier than the parent's end; a parent that starts children from
    short-lived threads must not rely on it. So a daemon thread watches the parent's pid instead,
    and the kernel's signal is asked for only when the parent is a single-threaded one.
    """
    expected = os.getppid() if parent_pid is None else parent_pid
    if _thread_count(expected) == 1:
        signal_on_parent_death(signal.SIGTERM)
    watcher = threading.Thread(
        target=_watch_parent, args=(expected,), name="parent-watch", daemon=True
    )
    watcher.start()


async def exits_within(process: asyncio.subprocess.Process, seconds: float) -> bool:
    """Whether a child exits within a time."""
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        return False
    return True


def _thread_count(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except FileNotFoundError:
        return 0


def _watch_parent(parent_pid: int) -> None:
    # An orphan is adopted by init or a subreaper, so its getppid() changes.
    while os.getppid() == parent_pid:
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_KILL_AFTER_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.kill(os.getpid(), signal.SIGKILL)
