"""A disk agent in a process of its own, its sources, and checks for files it left behind."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import yaml

from services.disk_agent.server import runtime_dir
from v2c.disk.v1 import disk_pb2 as pb
from v2c.disk.v1 import disk_pb2_grpc

PASSWORD = "a-password-nobody-shows"
_START_SECONDS = 20.0


@dataclass
class AgentProcess:
    """A running ``python -m services.disk_agent``; all its files lie in `folder`."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        """The address that the agent listens on."""
        return f"unix:{self.folder}/agent.sock"

    @contextlib.asynccontextmanager
    async def stub(self) -> AsyncIterator["disk_pb2_grpc.DiskServiceAsyncStub"]:
        """A client of the agent."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            yield disk_pb2_grpc.DiskServiceStub(channel)

    @property
    def run_dir(self) -> Path:
        """The folder in which its workers have their sockets."""
        return runtime_dir(self.folder / "control" / "disk-agent")

    def kill(self) -> None:
        """Kill the agent with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def left_behind(self) -> list[str]:
        """Command lines of the processes that use its folder, except the agent itself."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in (os.getpid(), self.process.pid):
                continue
            with contextlib.suppress(OSError):
                command = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
                if f"{self.folder}/control" in command or f"{self.run_dir}/" in command:
                    found.append(command)
        return found

    def workers(self) -> list[int]:
        """Process ids of its workers."""
        # /proc/PID/task/TID/children may miss some while others start or end (proc(5)).
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    parent = (entry / "stat").read_bytes().rpartition(b")")[2].split()[1]
                    command = (entry / "cmdline").read_bytes()
                    if int(parent) == self.process.pid and b"disk_agent.worker" in command:
                        found.append(int(entry.name))
        return found


@contextlib.contextmanager
def agent(
    folder: Path,
    *,
    vddk_path: Path | None = None,
    limits: dict[str, object] | None = None,
    **disk: object,
) -> Iterator[AgentProcess]:
    """Run an agent; a second one in the same folder finds the first one's state."""
    config = {
        "vcenter": {"host": "vc.test", "user": "administrator@vsphere.local", "port": 8443},
        "migration": {
            "vddk_path": str(vddk_path or folder / "no-vddk"),
            "control_dir": str(folder / "control"),
        },
        "cloudstack": {"endpoint": "http://127.0.0.1:1", "api_key": "a", "secret_key": "b"},
        "disk": {"checkpoint_seconds": 0.1, **disk},
        "limits": limits or {},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    ready = folder / "ready"
    ready.unlink(missing_ok=True)
    with (folder / "agent.log").open("ab") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "services.disk_agent"),
                *("--config", str(folder / "config.yaml")),
                *("--listen", f"unix:{folder}/agent.sock"),
                *("--ready-file", str(ready)),
            ],
            stderr=log,
            env={**os.environ, "VC_PASSWORD": PASSWORD},
        )
    running = AgentProcess(folder, process)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not ready.exists():
            assert process.poll() is None, (folder / "agent.log").read_text()
            assert time.monotonic() < deadline, "the agent does not start"
            time.sleep(0.02)
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(30)
        if not running.run_dir.is_relative_to(folder):
            shutil.rmtree(running.run_dir, ignore_errors=True)


def request(
    folder: Path, transfer_id: str, size: int, image: Path, **changes: object
) -> pb.StartTransferRequest:
    """A request for a full copy of the source that `serving` serves in `folder`."""
    fields: dict[str, object] = {
        "transfer_id": transfer_id,
        "mode": pb.TRANSFER_MODE_FULL,
        "source": pb.Source(
            nbd=pb.NbdSource(uri=f"nbd+unix:///?socket={folder}/source.sock"),
        ),
        "target_path": str(image),
        "capacity_bytes": size,
        "disk_id": "vm-1/2000",
        "snapshot_id": "snapshot-1",
        "options": pb.TransferOptions(queue_depth=4, chunk_bytes=256 << 10),
        **changes,
    }
    return pb.StartTransferRequest(**fields)  # type: ignore[arg-type]


async def ended(stub: "disk_pb2_grpc.DiskServiceAsyncStub", transfer_id: str) -> pb.Transfer:
    """Watch a transfer to its end."""
    last = pb.Transfer()
    async for answer in stub.WatchTransfer(pb.WatchTransferRequest(transfer_id=transfer_id)):
        last = answer.transfer
    return last


async def progressed(
    stub: "disk_pb2_grpc.DiskServiceAsyncStub", transfer_id: str, done_bytes: int
) -> pb.Transfer:
    """Watch a transfer until it has done this number of bytes."""
    async for answer in stub.WatchTransfer(pb.WatchTransferRequest(transfer_id=transfer_id)):
        if answer.transfer.progress.done_bytes >= done_bytes:
            return answer.transfer
        assert answer.transfer.end_time.seconds == 0, answer.transfer
    raise AssertionError("the transfer ended early")


def saved_transfer(folder: Path, transfer_id: str) -> dict[str, object]:
    """The content of a transfer's file."""
    path = folder / "control" / "disk-agent" / "transfers" / f"{transfer_id}.json"
    content: dict[str, object] = json.loads(path.read_text())
    return content
