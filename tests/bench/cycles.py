"""Start, kill, restart, many times over: what is left of it."""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from tests.bench.bench_disk import assert_equal, create_image
from tests.bench.processes import BenchFailed
from tests.bench.results import Result
from tests.bench.surroundings import Bench
from tests.disk_agent_rig import AgentProcess, agent, ended, request
from tests.disk_transfer_rig import serving, write_disk
from v2c.disk.v1 import disk_pb2 as pb
from v2c.disk.v1 import disk_pb2_grpc

Stub: TypeAlias = "disk_pb2_grpc.DiskServiceAsyncStub"
_CYCLES = 200
_QUICK_CYCLES = 3
_VICTIMS = ("worker", "qemu-nbd", "agent")
_LETTERS = "AB0-" * 16
_SECONDS = 20.0
_STEP_SECONDS = 0.02
# A copy takes half a second at least, so that this is always in the middle.
_LATEST_KILL_SECONDS = 0.3
_MARK = "V2C_BENCH_CYCLES"
# Worker, qemu-nbd, the worker's folder, its socket, the image's lock and the mark of being open.
_RUNNING_COUNT = 6
_GONE_SECONDS = 5.0


def cycles(bench: Bench) -> list[Result]:
    """Kill the worker, its qemu-nbd or the agent in mid-copy, start again, copy to the end.

    After every cycle and once more after the agent's end all that is left is counted: processes,
    sockets (files, and those the kernel knows), workers' folders, and locks on the image.
    """
    count = _QUICK_CYCLES if bench.quick else _CYCLES
    folder = bench.sockets / "cycles"
    folder.mkdir()
    left = asyncio.run(_run(folder, count, bench))
    detail = f"{count} cycles: worker, qemu-nbd and agent killed in turn"
    return [Result("cycles: left behind", float(sum(left)), 0.0, left, detail=detail)]


async def _run(folder: Path, count: int, bench: Bench) -> list[int]:
    disk = folder / "source.raw"
    size = write_disk(disk, _LETTERS)
    image = create_image(folder / "disk.qcow2", size)
    left: list[int] = []
    dice = random.Random(count)
    # One thread, because nbdkit 1.32 may abort when a client with requests in flight is killed.
    slow = ("-t", "1", "--filter=delay", "file", str(disk), "rdelay=40ms")
    with serving(folder, *slow), _marked(folder), contextlib.ExitStack() as stack:
        running = stack.enter_context(agent(folder))
        for number in range(count):
            if number % 50 == 0:
                bench.console.print(f"cycles: {number} of {count}", style="dim")
            victim = _VICTIMS[number % len(_VICTIMS)]
            order = request(folder, f"t{number}", size, image, snapshot_id=f"snapshot-{number}")
            async with running.stub() as stub:
                await stub.StartTransfer(order, timeout=_SECONDS)
                await _at_work(running, image)
                await asyncio.sleep(dice.uniform(0, _LATEST_KILL_SECONDS))
                _kill(running, victim)
                if victim != "agent":
                    await ended(stub, order.transfer_id)
            if victim == "agent":
                await _gone(running)
                running = stack.enter_context(agent(folder))
            async with running.stub() as stub:
                await stub.StartTransfer(order, timeout=_SECONDS)
                transfer = await ended(stub, order.transfer_id)
                if transfer.state != pb.TRANSFER_STATE_SUCCEEDED:
                    raise BenchFailed(f"cycle {number}: {transfer.failure.message}")
            left.append(_count(running, image))
        stack.close()
        left.append(_count(running, image))
    assert_equal(disk, image)
    return left


def _kill(running: AgentProcess, victim: str) -> None:
    if victim == "agent":
        running.kill()
    elif victim == "worker":
        (worker,) = running.workers()
        os.kill(worker, signal.SIGKILL)
    else:
        (pidfile,) = _run_dir(running).glob("w-*/target.pid")
        os.kill(int(pidfile.read_text()), signal.SIGKILL)


async def _at_work(running: AgentProcess, image: Path) -> None:
    """Wait until all that a transfer has is counted: else the count would be worth nothing."""
    async with asyncio.timeout(_SECONDS):
        while _count(running, image) < _RUNNING_COUNT:  # noqa: ASYNC110 - nor of these beginnings
            await asyncio.sleep(_STEP_SECONDS)


async def _gone(running: AgentProcess) -> None:
    """Wait for the processes of a killed agent to end. Raises TimeoutError."""
    async with asyncio.timeout(_GONE_SECONDS):
        while _processes(running):  # noqa: ASYNC110 - nobody tells of these ends
            await asyncio.sleep(_STEP_SECONDS)


def _run_dir(running: AgentProcess) -> Path:
    return running.folder / "control" / "disk-agent" / "run"


def _count(running: AgentProcess, image: Path) -> int:
    """All that is left of finished transfers."""
    return (
        len(_processes(running))
        + len(list(_run_dir(running).glob("*")))
        + len(list(_kernel_sockets(_run_dir(running))))
        + len(list((running.folder / "control").rglob("*.open")))
        + len(list(_locks(image)))
    )


@contextlib.contextmanager
def _marked(folder: Path) -> Iterator[None]:
    """Mark all processes that are started meanwhile, and what they start."""
    os.environ[_MARK] = str(folder)
    try:
        yield
    finally:
        del os.environ[_MARK]


def _processes(running: AgentProcess) -> list[int]:
    """Marked processes but for the agent, whatever became of their parents (proc(5), environ)."""
    mark = f"{_MARK}={running.folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != running.process.pid:
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def _kernel_sockets(folder: Path) -> Iterator[str]:
    """Unix sockets below a folder that a process still has open (proc(5), net/unix)."""
    for line in Path("/proc/net/unix").read_text().splitlines():
        path = line.split()[-1]
        if path.startswith(str(folder)):
            yield path


def _locks(image: Path) -> Iterator[str]:
    """Locks on the image (proc(5), locks)."""
    inode = str(image.stat().st_ino)
    for line in Path("/proc/locks").read_text().splitlines():
        if line.split()[-3].rpartition(":")[2] == inode:
            yield line
