"""The lab's ESXi side and VDDK, started for a test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nbd
import pytest

from lab.esxi.process import EsxiProcess
from lab.vddk.build import LabVddkConf, build

NATIVE = os.environ.get("NBDKIT_VDDK_PLUGIN", "vddk")
"""nbdkit's own plugin: a name, or the path of one that is not installed."""

PLUGIN = Path(__file__).parents[3] / "services" / "disk_agent" / "vddk" / "plugin.py"
BLOCK = 64 * 1024
PASSWORD = "s3cret with spaces+=-"


def connect(socket: Path, export: str = "") -> nbd.NBD:
    """A connection to one export, with allocation known."""
    handle = nbd.NBD()
    handle.set_export_name(export)
    handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    handle.connect_unix(str(socket))
    return handle


def content(handle: nbd.NBD) -> bytes:
    """All bytes of a small disk."""
    size, step = handle.get_size(), 1 << 20
    return b"".join(bytes(handle.pread(min(step, size - at), at)) for at in range(0, size, step))


def extents(handle: nbd.NBD, end: int = 0) -> str:
    """One letter a 64 KiB block, up to ``end`` or to the end: A allocated, - a hole."""
    letters = ""
    position, size = 0, end or handle.get_size()
    while position < size:
        pairs: list[int] = []

        def note(_context: str, _offset: int, entries: list[int], _error: object) -> int:
            pairs.extend(entries)  # noqa: B023 - called inside this turn
            return 0

        handle.block_status(size - position, position, note)
        for length, flags in zip(pairs[::2], pairs[1::2], strict=True):
            letters += ("-" if flags & nbd.STATE_HOLE else "A") * -(-length // BLOCK)
            position += length
    return letters


@contextmanager
def writing(
    esxi: EsxiProcess, export: str, areas: list[tuple[int, int]], log: Path, rate: float = 8.0
) -> Iterator[subprocess.Popen[bytes]]:
    """A guest that changes (start, length) areas; shut down at the end if the test did not."""
    key = export.rpartition("/")[2]
    process = subprocess.Popen(
        [sys.executable, "-m", "lab.esxi.writer", "--socket", str(esxi.nbd_socket)]
        + ["--export", export, "--log", str(log), "--rate-mbps", str(rate)]
        + [part for start, length in areas for part in ("--area", f"{key}:{start}:{length}")]
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def wait_until(path: Path, lines: int = 1) -> None:
    """Wait until a log has that many lines."""
    deadline = time.monotonic() + 20
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < deadline, f"{path} does not grow"
        time.sleep(0.01)


@dataclass
class Served:
    """nbdkit with the product's VDDK plugin."""

    process: subprocess.Popen[bytes]
    socket: Path
    log_file: Path
    handles: list[nbd.NBD] = field(default_factory=list)

    def connect(self) -> nbd.NBD:
        handle = connect(self.socket)
        self.handles.append(handle)
        return handle

    def stderr(self) -> str:
        return self.log_file.read_text()


def vddk_conf(esxi: EsxiProcess) -> LabVddkConf:
    """Lets `administrator` in at vc.test:8443."""
    return LabVddkConf(
        nbd_socket=esxi.nbd_socket,
        control_socket=esxi.control_socket,
        servers=("vc.test",),
        port=8443,
        user="administrator@vsphere.local",
        password=PASSWORD,
        thumbprints=("12:34:AB:CD",),
    )


def build_vddk(directory: Path, esxi: EsxiProcess) -> Path:
    """Compile the lab's library into ``directory``."""
    return build(directory, vddk_conf(esxi))


def _plugin(kind: str) -> list[str]:
    if kind == "python":
        return ["python", f"script={PLUGIN}"]
    probe = subprocess.run(["nbdkit", NATIVE, "--dump-plugin"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("nbdkit's own vddk plugin is not installed")
    return [NATIVE]


@contextmanager
def vddk_served(
    directory: Path,
    library: Path,
    /,
    password: str = PASSWORD,
    password_file: str = "",
    plugin: str = "python",
    **parameters: str,
) -> Iterator[Served]:
    """Serve a disk through the product's plugin; parameters replace or add to the right ones.

    The password goes through a pipe unless a file is given. ``plugin`` is "python" (ours) or
    "native" (nbdkit's own; the test is skipped where it is missing).
    """
    values = {
        "libdir": str(library),
        "server": "vc.test",
        "port": "8443",
        "user": "administrator@vsphere.local",
        "thumbprint": "1234abcd",
        "vm": "moref=vm-1",
        "file": "[ds] a/a.vmdk",
        "snapshot": "snapshot-1",
        "transports": "nbdssl:nbd",
        **parameters,
    }
    socket, log_file = directory / "vddk.sock", directory / "vddk.log"
    started = directory / "vddk.pid"  # written once the socket listens
    for left in (socket, started):
        left.unlink(missing_ok=True)
    reading, writing_end = os.pipe()
    os.write(writing_end, password.encode() + b"\n")
    os.close(writing_end)
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            ["nbdkit", "--foreground", "--readonly", "--exit-with-parent", "--unix", str(socket)]
            + ["--pidfile", str(started), *_plugin(plugin)]
            + [f"{key.replace('_', '-')}={value}" for key, value in values.items() if value]
            + [f"password=-{reading}" if not password_file else f"password=+{password_file}"],
            pass_fds=(reading,),
            stderr=log,
            env={**os.environ, "LD_LIBRARY_PATH": str(library / "lib64")},
        )
    os.close(reading)
    served = Served(process, socket, log_file)
    try:
        deadline = time.monotonic() + 20
        while not started.exists() and process.poll() is None:
            assert time.monotonic() < deadline, "nbdkit does not start"
            time.sleep(0.01)
        yield served
    finally:
        for handle in served.handles:
            if not handle.aio_is_dead():
                handle.shutdown()
        process.terminate()
        process.wait()
