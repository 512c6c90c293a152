"""Guests of powered-on VMs: writer processes, which outlive a restart of the vCenter."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from lab.vcenter.model import VmRecord, write_atomically

_PROGRAM = "lab.esxi.writer"


class WriterGuests:
    """One ``python -m lab.esxi.writer`` per powered-on VM that has a writer and an area to write.

    ``directory`` gets, per VM, a pid file, the writer's complaints and the log of what it wrote.
    """

    def __init__(
        self, directory: Path, nbd_socket: Path, record_of: Callable[[str], VmRecord | None]
    ) -> None:
        self._directory = directory
        self._directory.mkdir(parents=True, exist_ok=True)
        self._nbd_socket = nbd_socket
        self._record_of = record_of
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    def write_log(self, vm: str) -> Path:
        """Where the writer logs, one JSON object a write."""
        return self._directory / f"{vm}.writes.jsonl"

    def pid(self, vm: str) -> int | None:
        """The running writer's process id."""
        return running_pid(self._directory / f"{vm}.pid")

    def start(self, vm: str) -> None:
        """See Guests."""
        record = self._record_of(vm)
        if record is None or record.spec.writer is None:
            return
        areas = {disk.key: disk.write_area for disk in record.disks if disk.write_area}
        with self._lock:
            if not areas or self.pid(vm) is not None:
                return
            command = [sys.executable, "-m", _PROGRAM, "--socket", str(self._nbd_socket)]
            for key, (start, length) in areas.items():
                command += ["--export", f"{vm}/{key}", "--area", f"{key}:{start}:{length}"]
            command += ["--log", str(self.write_log(vm)), "--seed", str(record.spec.writer.seed)]
            command += ["--rate-mbps", str(record.spec.writer.rate_mib_per_second)]
            with (self._directory / f"{vm}.log").open("ab") as log:
                child = subprocess.Popen(  # noqa: S603 - our own program
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self._children[vm] = child
            write_atomically(self._directory / f"{vm}.pid", str(child.pid).encode())

    def stop(self, vm: str, timeout_seconds: float) -> bool:
        """See Guests."""
        return self._end(vm, signal.SIGTERM, timeout_seconds)

    def kill(self, vm: str) -> None:
        """See Guests."""
        self._end(vm, signal.SIGKILL, 5.0)

    def _end(self, vm: str, number: int, timeout_seconds: float) -> bool:
        with self._lock:
            pid_file = self._directory / f"{vm}.pid"
            ended = end_process(pid_file, number, timeout_seconds)
            child = self._children.get(vm)
            if ended and child is not None:
                child.wait()
                del self._children[vm]
            return ended


def running_pid(pid_file: Path, program: str = _PROGRAM) -> int | None:
    """The process id in the file if that process runs ``program``; ids are reused by others."""
    try:
        pid = int(pid_file.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    return pid if program.encode() in command and state != "Z" else None


def end_process(
    pid_file: Path, number: int, timeout_seconds: float, program: str = _PROGRAM
) -> bool:
    """Signal the process of a pid file and wait for its end; True if it is gone."""
    pid = running_pid(pid_file, program)
    if pid is not None:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            descriptor = -1
        if descriptor >= 0:
            try:
                signal.pidfd_send_signal(descriptor, number)
                if not select.select([descriptor], [], [], timeout_seconds)[0]:
                    return False
            except ProcessLookupError:
                pass  # it ended between the two calls
            finally:
                os.close(descriptor)
    pid_file.unlink(missing_ok=True)
    return True


class NoGuests:
    """Guests of VMs that have nothing inside."""

    def start(self, vm: str) -> None:
        """See Guests."""

    def stop(self, vm: str, timeout_seconds: float) -> bool:
        """See Guests."""
        return True

    def kill(self, vm: str) -> None:
        """See Guests."""
