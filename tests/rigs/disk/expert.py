"""The expert commands as processes, on a disk of the lab's ESXi."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab.esxi.process import EsxiProcess, start_esxi
from tests.rigs.disk.transfer import create_image
from tests.rigs.lab.esxi import BLOCK, PASSWORD, build_vddk, connect, content

ROOT = Path(__file__).parents[3]
SIZE = 64 * BLOCK
MIB = 1 << 20
DISK = "[ds] a/a.vmdk"


@dataclass
class Expert:
    """A disk with a first snapshot, and the command on it."""

    esxi: EsxiProcess
    folder: Path
    vddk: dict[str, Any]

    @property
    def target(self) -> Path:
        return self.folder / "a.qcow2"

    def write(self, start: int, byte: bytes, length: int = BLOCK) -> None:
        handle = connect(self.esxi.nbd_socket, "vm-1/2000")
        handle.pwrite(byte * length, start)
        handle.flush()
        handle.shutdown()

    def snapshot_content(self, snapshot: str) -> bytes:
        return content(connect(self.esxi.nbd_socket, f"vm-1/2000@{snapshot}"))

    def image_content(self) -> bytes:
        raw = self.folder / "a.raw"
        subprocess.run(["qemu-img", "convert", "-O", "raw", str(self.target), str(raw)], check=True)
        return raw.read_bytes()

    def empty_image(self) -> None:
        """Create an image at the target's path, as any tool would."""
        self.target.unlink(missing_ok=True)
        create_image(self.target, SIZE)

    def foreign_image(self) -> bytes:
        """Create an image with other data there; returns the file's content."""
        self.empty_image()
        write = ["qemu-io", "-c", "write -q -P 7 0 64k", "-c", "write -q -P 7 2M 64k"]
        subprocess.run([*write, str(self.target)], check=True)
        return self.target.read_bytes()

    def v2c(
        self, command: str, section: str, *options: str, enabled: bool = True, **job: Any
    ) -> subprocess.CompletedProcess[str]:
        with self.started(command, section, None, *options, enabled=enabled, **job) as process:
            output, errors = process.communicate(timeout=60)
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def started(
        self,
        command: str,
        section: str,
        temporary: Path | None,
        *options: str,
        enabled: bool = True,
        streams: int = subprocess.PIPE,
        **job: Any,
    ) -> subprocess.Popen[str]:
        disk = {"disk_path": DISK, "target_qcow2": "a.qcow2", "disk_size_bytes": SIZE}
        document = {"vddk": self.vddk, section: {**disk, **job}}
        (self.folder / "expert.yaml").write_text(yaml.safe_dump(document))
        environment = {
            **os.environ,
            **({"TMPDIR": str(temporary)} if temporary else {}),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}",
            "V2C_ENABLE_EXPERT_COMMANDS": "1" if enabled else "",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "cli", command, "--spec", "expert.yaml", *options],
            cwd=self.folder,
            env=environment,
            stdout=streams,
            stderr=streams,
            # The tests themselves may run under nohup(1), which is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
            text=True,
        )


def source_served(temporary: Path, command: subprocess.Popen[str]) -> Path:
    """Wait until a command's nbdkit reads the slow disk; returns nbdkit's pid file."""
    while not (found := list(temporary.glob("v2c-*/run/*/source.pid"))):
        assert command.poll() is None
        time.sleep(0.01)
    return found[0]


@contextmanager
def expert_on(folder: Path) -> Iterator[Expert]:
    """A disk in the lab's ESXi, and the commands that may read it."""
    with start_esxi(folder / "esxi") as esxi:
        esxi.client.add_disk("vm-1", 2000, DISK, SIZE)
        esxi.client.set_tracking("vm-1", 2000, True)
        vddk = {
            "libdir": str(build_vddk(folder / "vddk", esxi)),
            "server": "vc.test",
            "port": 8443,
            "user": "administrator@vsphere.local",
            "password": PASSWORD,
            "thumbprint": "12:34:ab:cd",
            "vm_moref": "vm-1",
        }
        expert = Expert(esxi, folder, vddk)
        expert.write(0, b"a")
        expert.write(5 * BLOCK, b"b", 3 * BLOCK)
        yield expert
