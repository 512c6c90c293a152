"""Guests of powered-on VMs: writer processes, which run on when vCenter restarts."""

from __future__ import annotations

import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from lab.processes import end, running_pid, spawn
from lab.vcenter.world.vm_state import VmRecord

_PROGRAM = "lab.esxi.writer"


class WriterGuests:
    """One ``python -m lab.esxi.writer`` per powered-on VM that has a writer and an area to write.

    ``directory`` has each VM's pid file, the writer's stderr and the log of its writes.
    """

    def __init__(
        self, directory: Path, nbd_socket: Path, record_of: Callable[[str], VmRecord | None]
    ) -> None:
        self._directory = directory
        self._directory.mkdir(parents=True, exist_ok=True)
        self._nbd_socket = nbd_socket
        self._record_of = record_of
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def write_log(self, vm: str) -> Path:
        """The writer's log, with one JSON object per write."""
        return self._directory / f"{vm}.writes.jsonl"

    def pid(self, vm: str) -> int | None:
        """The running writer's process id."""
        return running_pid(self._pid_file(vm))

    def _pid_file(self, vm: str) -> Path:
        return self._directory / f"{vm}.pid"

    def start(self, vm: str) -> None:
        """See Guests."""
        record = self._record_of(vm)
        if record is None or record.spec.writer is None:
            return
        areas = {disk.key: disk.write_area for disk in record.disks if disk.write_area}
        with self._locks[vm]:
            if not areas or self.pid(vm) is not None:
                return
            command = [sys.executable, "-m", _PROGRAM, "--socket", str(self._nbd_socket)]
            for key, (start, length) in areas.items():
                command += ["--export", f"{vm}/{key}", "--area", f"{key}:{start}:{length}"]
            command += ["--log", str(self.write_log(vm)), "--seed", str(record.spec.writer.seed)]
            command += ["--rate-mbps", str(record.spec.writer.rate_mib_per_second)]
            log = self._directory / f"{vm}.log"
            spawn(command, self._pid_file(vm), _PROGRAM, log)

    def stop(self, vm: str, timeout_seconds: float) -> bool:
        """See Guests."""
        return self._end(vm, signal.SIGTERM, timeout_seconds)

    def kill(self, vm: str) -> None:
        """See Guests."""
        self._end(vm, signal.SIGKILL, 5.0)

    def _end(self, vm: str, number: int, timeout_seconds: float) -> bool:
        with self._locks[vm]:
            return end(self._pid_file(vm), number, timeout_seconds)


class NoGuests:
    """Guests that do nothing."""

    def start(self, vm: str) -> None:
        """See Guests."""

    def stop(self, vm: str, timeout_seconds: float) -> bool:
        """See Guests."""
        return True

    def kill(self, vm: str) -> None:
        """See Guests."""
