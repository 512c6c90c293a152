"""Starting and stopping the nbdkit process that is the lab's ESXi side."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lab.control import ControlClient, ControlError
from lab.esxi.client import EsxiClient

_PLUGIN = Path(__file__).with_name("plugin.py")
_SOCKETS = ("nbd.sock", "nbdkit.sock", "control.sock")
_START_SECONDS = 15.0
_STOP_SECONDS = 1.0


class EsxiStartError(Exception):
    """nbdkit did not start; the message has the last lines of its log."""


@dataclass
class EsxiProcess:
    """A running nbdkit. Leaving the context stops it; its state stays in ``directory``."""

    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def nbd_socket(self) -> Path:
        """Unix socket that serves the disks."""
        return self.directory / "nbd.sock"

    @property
    def control_socket(self) -> Path:
        """Unix socket of lab.esxi.client.EsxiClient."""
        return self.directory / "control.sock"

    @property
    def client(self) -> EsxiClient:
        """A client of this process."""
        return EsxiClient(self.control_socket)

    def stop(self) -> None:
        """Terminate nbdkit; kill it if it waits for connected clients, which it does for ever.

        No data is lost by the kill: all maps and writes are in the page cache by then.
        """
        self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        _remove_sockets(self.directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()


def start_esxi(directory: Path) -> EsxiProcess:
    """Start nbdkit on ``directory`` (created if needed) and wait until both sockets answer.

    It ends when the calling thread ends, because nbdkit 1.32 sets PR_SET_PDEATHSIG in the
    foreground. Its log is ``nbdkit.log``. Raises EsxiStartError.
    """
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    _remove_sockets(directory)
    log = directory / "nbdkit.log"
    command = ["nbdkit", "--foreground", "--exit-with-parent", "--threads", "16"]
    command += ["--unix", str(directory / "nbdkit.sock")]
    command += ["python", str(_PLUGIN), f"dir={directory}"]
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=_environment(os.environ),
            start_new_session=True,
        )
    esxi = EsxiProcess(directory, process)
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(esxi):
        if process.poll() is not None or time.monotonic() > deadline:
            esxi.stop()
            tail = log.read_text(errors="replace").splitlines()[-5:]
            raise EsxiStartError("nbdkit did not start: " + " | ".join(tail))
        time.sleep(0.02)
    return esxi


def _answers(esxi: EsxiProcess) -> bool:
    if not esxi.nbd_socket.exists():
        return False
    try:
        ControlClient(esxi.control_socket, timeout_seconds=1).call("disks")
    except ControlError as error:
        if error.kind == "unreachable":
            return False
        raise
    return True


def _remove_sockets(directory: Path) -> None:
    for name in _SOCKETS:
        (directory / name).unlink(missing_ok=True)


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Switches byte code off, which would be written to an installed package's folder."""
    return {**environment, "PYTHONDONTWRITEBYTECODE": "1"}
