"""Start, kill, restart, many times over: what is left of it."""

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from itertools import cycle, islice
from pathlib import Path
from typing import TypeAlias

from lab.esxi.client import DiskFault
from lab.esxi.process import start_esxi
from tests.bench.bench_disk import assert_equal, create_image
from tests.bench.left_behind import Left, left_behind, marked, marked_processes, pipes
from tests.bench.processes import BenchFailed
from tests.bench.results import Result
from tests.bench.surroundings import Bench
from tests.rigs.disk.agent import AgentProcess, agent, ended, request
from tests.rigs.disk.transfer import serving, write_disk
from tests.rigs.lab.esxi import PASSWORD, build_vddk
from v2c.disk.v1 import disk_pb2 as pb
from v2c.disk.v1 import disk_pb2_grpc

Stub: TypeAlias = "disk_pb2_grpc.DiskServiceAsyncStub"
_CYCLES = 200
_QUICK_CYCLES = 4
# Source and victim: an NBD server that is there already, or our nbdkit with the lab's VDDK.
_KILLS = (
    ("nbd", "worker"),
    ("vddk", "source"),
    ("nbd", "target"),
    ("vddk", "agent"),
    ("vddk", "worker"),
    ("nbd", "agent"),
    ("vddk", "target"),
)
_LETTERS = "AB0-" * 16
_SECONDS = 20.0
_STEP_SECONDS = 0.02
# A copy takes half a second at least, so that this is always in the middle.
_LATEST_KILL_SECONDS = 0.3
_LATENCY_MS = 160
# Worker and qemu-nbd; the worker's three pipes. With the VDDK nbdkit as well, and its socket.
_RUNNING = {
    "nbd": Left(processes=2, folders=1, sockets=1, pipes=3, open_marks=1, locks=1),
    "vddk": Left(processes=3, folders=1, sockets=2, pipes=3, open_marks=1, locks=1),
}
_GONE_SECONDS = 5.0


def cycles(bench: Bench) -> list[Result]:
    """Kill one of a copy's processes or the agent in mid-copy, start again, copy to the end.

    After every cycle and once more after the agent's end all that is left is counted.
    """
    count = _QUICK_CYCLES if bench.quick else _CYCLES
    folder = bench.sockets / "cycles"
    folder.mkdir()
    kills = list(islice(cycle(_KILLS), count))
    left = asyncio.run(_run(folder, kills, bench))
    times = Counter(f"{source} {victim}" for source, victim in kills)
    detail = ", ".join(f"{name} {number}" for name, number in times.items())
    return [Result("cycles: left behind", float(sum(left)), 0.0, left, detail=detail)]


class _Host:
    """The lab's ESXi with one disk, and the VDDK for it."""

    def __init__(self, folder: Path, raw: Path, size: int) -> None:
        self._esxi = start_esxi(folder / "esxi")
        self._esxi.client.add_disk("vm-1", 2000, "[ds] a/a.vmdk", size, raw)
        self._esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
        self._esxi.client.inject_fault(DiskFault("latency", milliseconds=_LATENCY_MS, count=0))
        self._library = build_vddk(folder / "vddk", self._esxi)

    def stop(self) -> None:
        """End it."""
        self._esxi.stop()

    @property
    def source(self) -> pb.Source:
        """The disk as a source."""
        return pb.Source(
            vddk=pb.VddkSource(
                password=PASSWORD,
                thumbprint="12:34:AB:CD",
                library_dir=str(self._library),
                vm_moref="vm-1",
                snapshot_moref="snapshot-1",
                disk_path="[ds] a/a.vmdk",
                transports="nbdssl:nbd",
            )
        )


async def _run(folder: Path, kills: list[tuple[str, str]], bench: Bench) -> list[int]:
    disk = folder / "source.raw"
    size = write_disk(disk, _LETTERS)
    image = create_image(folder / "disk.qcow2", size)
    left: list[int] = []
    dice = random.Random(len(kills))
    # One thread, because nbdkit 1.32 may abort when a client with requests in flight is killed.
    slow = ("-t", "1", "--filter=delay", "file", str(disk), "rdelay=40ms")
    with serving(folder, *slow), contextlib.ExitStack() as stack:
        host = _Host(folder, disk, size)
        stack.callback(host.stop)
        running, own_pipes = _start_agent(stack, folder)
        for number, (source, victim) in enumerate(kills):
            if number % 50 == 0:
                bench.console.print(f"cycles: {number} of {len(kills)}", style="dim")
            order = request(folder, f"t{number}", size, image, snapshot_id=f"snapshot-{number}")
            if source == "vddk":
                order.source.CopyFrom(host.source)
            async with running.stub() as stub:
                await stub.StartTransfer(order, timeout=_SECONDS)
                await _at_work(running, image, own_pipes, _RUNNING[source])
                await asyncio.sleep(dice.uniform(0, _LATEST_KILL_SECONDS))
                _kill(running, victim)
                if victim != "agent":
                    await ended(stub, order.transfer_id)
            if victim == "agent":
                await _gone(running)
                running, own_pipes = _start_agent(stack, folder)
            async with running.stub() as stub:
                await stub.StartTransfer(order, timeout=_SECONDS)
                transfer = await ended(stub, order.transfer_id)
                if transfer.state != pb.TRANSFER_STATE_SUCCEEDED:
                    raise BenchFailed(f"cycle {number}: {transfer.failure.message}")
            left.append(left_behind(running, image, own_pipes).total)
        stack.close()
        left.append(left_behind(running, image, own_pipes).total)
    assert_equal(disk, image)
    return left


def _start_agent(stack: contextlib.ExitStack, folder: Path) -> tuple[AgentProcess, int]:
    """An agent, and how many pipes it has of its own."""
    with marked(folder):
        running = stack.enter_context(agent(folder))
    return running, pipes(running)


def _kill(running: AgentProcess, victim: str) -> None:
    if victim == "agent":
        running.kill()
    elif victim == "worker":
        (worker,) = running.workers()
        os.kill(worker, signal.SIGKILL)
    else:
        # nbdkit or qemu-nbd.
        (pidfile,) = running.run_dir.glob(f"w-*/{victim}.pid")
        os.kill(int(pidfile.read_text()), signal.SIGKILL)


async def _at_work(running: AgentProcess, image: Path, own_pipes: int, least: Left) -> None:
    """Wait until all that a transfer has is counted: else the count would be worth nothing."""
    async with asyncio.timeout(_SECONDS):
        while not left_behind(running, image, own_pipes).covers(least):  # noqa: ASYNC110 - no event
            await asyncio.sleep(_STEP_SECONDS)


async def _gone(running: AgentProcess) -> None:
    """Wait for the processes of a killed agent to end. Raises TimeoutError."""
    async with asyncio.timeout(_GONE_SECONDS):
        while marked_processes(running):  # noqa: ASYNC110 - no event reports these ends
            await asyncio.sleep(_STEP_SECONDS)
