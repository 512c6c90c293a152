"""A disk agent's conversions on real images, with a scripted virt-v2v-in-place."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from services.disk_agent.conversions.conversion import Conversion, ConversionRequest
from services.disk_agent.conversions.leftovers import sweep
from services.disk_agent.conversions.registry import Conversions
from services.disk_agent.conversions.run import ConversionHost, OverlayRun
from services.disk_agent.conversions.store import ConversionStore
from services.disk_agent.conversions.virt_v2v import find_virt_v2v
from services.disk_agent.host.commands import Commands, HostCommands
from services.disk_agent.storage.images import Images
from services.disk_agent.storage.pool import PoolMount, PoolType
from services.disk_agent.storage.pools import Pools
from services.disk_agent.transfers.store import TransferStore

MIB = 1 << 20
SIZE = 4 * MIB

# The beginning of every script: the file for messages, and the overlays on the command line.
_PROLOGUE = """#!{python}
import json, os, re, subprocess, sys, time
if sys.argv[1] == "--version":
    sys.exit(print("virt-v2v-in-place 2.2.0"))
if sys.argv[1] == "--help":
    sys.exit(print("--root"))
messages = next(a for a in sys.argv if a.startswith("--machine-readable=file:"))[24:]
last = sys.argv[-1]
disks = [last]
if "libvirtxml" in sys.argv:
    disks = re.findall("<source file='?\\"?([^'\\"]*)", open(last).read())
with open({calls!r}, "a") as calls:
    calls.write(json.dumps({{"disks": disks, "env": dict(os.environ), "pid": os.getpid()}}) + "\\n")

def report(kind, message):
    with open(messages, "a") as file:
        file.write(json.dumps({{"message": message, "type": kind}}) + "\\n")

def write(disk, pattern="0xcc", offset="1M"):
    what = f"write -q -P {{pattern}} {{offset}} 64k"
    subprocess.check_call(["qemu-io", "-f", "qcow2", "-c", what, disk])

def daemon(script):
    # Its parent has ended and its session is another, so only a subreaper finds it.
    subprocess.check_call(["sh", "-c", 'setsid sh -c "$0" >/dev/null 2>&1 &', script])

"""

CONVERTS = """
report("message", "Opening the source")
report("message", "Converting Testix 7 to run on KVM")
report("warning", "mind the gap")
for disk in disks:
    write(disk)
report("info", "This guest has virtio drivers installed.")
report("info", "This guest requires UEFI on the target to boot.")
report("message", "Finishing off")
"""


@dataclass
class Rig:
    """Everything of one agent below a temporary directory; `agent` starts it (again)."""

    root: Path
    commands: Commands = field(default_factory=HostCommands)
    timeout_seconds: float = 30.0

    @property
    def pool(self) -> Path:
        """The pool's directory."""
        return self.root / "pool"

    @property
    def store(self) -> ConversionStore:
        """The conversions' files."""
        return ConversionStore(self.root / "work", self.root / "state")

    def script(self, body: str) -> None:
        """Install a virt-v2v-in-place with this body in Python."""
        (self.root / "bin").mkdir(exist_ok=True)
        tool = self.root / "bin" / "virt-v2v-in-place"
        calls = str(self.root / "calls")
        tool.write_text(_PROLOGUE.format(python=sys.executable, calls=calls) + body)
        tool.chmod(0o755)

    def calls(self) -> list[dict[str, object]]:
        """The arguments of each start of virt-v2v-in-place, the oldest first."""
        path = self.root / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def image(self, name: str = "boot.qcow2") -> Path:
        """A new image in the pool, with some content."""
        self.pool.mkdir(exist_ok=True)
        path = self.pool / name
        subprocess.check_call(["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(SIZE)])
        subprocess.check_call(["qemu-io", "-f", "qcow2", "-c", "write -q -P 0x11 0 2M", str(path)])
        return path

    async def agent(self, *, parallel: int = 2) -> Conversions:
        """Start an agent on the files that the last one left."""
        pools = Pools(self.commands, self.root / "state", nfs_options="rw")
        pools.ensure(PoolMount("p", PoolType.FILESYSTEM, "", self.pool))
        store = self.store
        sweep(store.folders)
        search = os.pathsep.join([str(self.root / "bin"), os.environ["PATH"]])

        def host() -> ConversionHost:
            tool = find_virt_v2v(self.commands, search)
            return ConversionHost(tool, {}, self.root / "run", self.timeout_seconds)

        conversions = Conversions(
            store,
            OverlayRun(store, self.commands, host),
            Images(self.commands, pools, self.root / "state"),
            TransferStore(self.root / "state"),
            parallel=parallel,
        )
        await conversions.recover()
        return conversions

    def left_over(self) -> list[str]:
        """Files and processes that a conversion must not leave."""
        found = [str(path) for path in self.store.folders.glob("*/overlay-*")]
        found += [str(path) for path in self.store.folders.glob("*/tmp")]
        found += [str(path) for path in (self.root / "run").glob("*")]
        return found + processes_below(self.root)


def request(*images: Path, id: str = "vm-1:conversion", **more: object) -> ConversionRequest:
    """A conversion of these images, the first being the boot disk."""
    return ConversionRequest(id, images, **more)  # type: ignore[arg-type]


async def ended(conversions: Conversions, id: str = "vm-1:conversion") -> Conversion:
    """Watch a conversion to its end."""
    async for snapshot in conversions.watch(id):
        if snapshot.state.ended:
            break
    return conversions.get(id)


def digest(path: Path) -> str:
    """The digest of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pattern_at(image: Path, pattern: str, offset: str = "1M") -> bool:
    """Whether an image holds 64 KiB of this byte at an offset."""
    command = ["qemu-io", "-r", "-f", "qcow2", "-c", f"read -P {pattern} {offset} 64k", str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return "verification failed" not in done.stdout


def check_image(image: Path) -> None:
    """Fail the test if an image has errors or a backing file."""
    info = subprocess.check_output(["qemu-img", "info", "--output=json", str(image)])
    assert "backing-filename" not in json.loads(info)
    subprocess.check_call(["qemu-img", "check", "-q", str(image)])


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is killed at the end of the block."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as started:
        try:
            yield started
        finally:
            started.kill()


def processes_below(directory: Path) -> list[str]:
    """Command lines of the processes that name a path below a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue
            if str(directory) in command:
                found.append(f"{entry.name} {command}")
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until a condition is true; fails the test if that takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.02)
