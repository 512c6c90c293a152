"""SIGKILL of worker, agent, nbdkit and qemu-nbd: nothing stays behind, and the copy resumes."""

import asyncio
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.rigs.disk.agent import AgentProcess, agent, ended, progressed, request, saved_transfer
from tests.rigs.disk.transfer import assert_identical, create_image, serving, write_disk
from v2c.disk.v1 import disk_pb2 as pb
from v2c.disk.v1 import disk_pb2_grpc

Stub: TypeAlias = "disk_pb2_grpc.DiskServiceAsyncStub"
LETTERS = "AAAABBBBC0-DEEEE" * 16
SECONDS = 20.0


class Disk:
    """A source and an image."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "source.raw"
        self.size = write_disk(self.source, LETTERS)
        self.image = folder / "disk.qcow2"
        create_image(self.image, self.size)
        self.start = request(folder, "t", self.size, self.image)
        # One thread: nbdkit 1.32 aborts ("sock >= 0") when a client with several requests in
        # flight is killed.
        self.slow = ("-t", "1", "--filter=delay", "file", str(self.source), "rdelay=40ms")


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


async def gone(running: AgentProcess, within_seconds: float) -> None:
    """Wait until nothing of the agent's children is left."""
    deadline = time.monotonic() + within_seconds
    while left := running.left_behind():
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.05)


async def running_state(stub: Stub) -> None:
    """Wait until the transfer's worker runs."""
    async for answer in stub.WatchTransfer(pb.WatchTransferRequest(transfer_id="t")):
        if answer.transfer.state == pb.TRANSFER_STATE_RUNNING:
            return


async def test_killed_worker_costs_one_attempt(disk: Disk) -> None:
    with serving(disk.folder, *disk.slow), agent(disk.folder) as running:
        async with running.stub() as stub:
            await stub.StartTransfer(disk.start, timeout=SECONDS)
            before = await progressed(stub, "t", disk.size // 2)
            (worker,) = running.workers()
            os.kill(worker, signal.SIGKILL)
            failed = await ended(stub, "t")
            assert failed.state == pb.TRANSFER_STATE_FAILED
            assert (failed.failure.reason, failed.failure.retryable) == ("WORKER_DIED", True)
            assert running.left_behind() == []
            assert not list(running.run_dir.iterdir())
            await stub.StartTransfer(disk.start, timeout=SECONDS)
            resumed = await ended(stub, "t")
    assert resumed.state == pb.TRANSFER_STATE_SUCCEEDED, resumed.failure
    assert resumed.attempts == 2
    # At most one checkpoint interval is copied twice.
    assert resumed.progress.resumed_bytes >= before.progress.done_bytes // 3
    assert_identical(disk.source, disk.image)


async def test_killed_agent_takes_everything_with_it_and_resumes(disk: Disk) -> None:
    with serving(disk.folder, *disk.slow):
        with agent(disk.folder) as first:
            async with first.stub() as stub:
                await stub.StartTransfer(disk.start, timeout=SECONDS)
                before = await progressed(stub, "t", disk.size // 2)
            assert len(first.left_behind()) == 1  # qemu-nbd
            first.kill()
            await gone(first, 5)
        assert saved_transfer(disk.folder, "t")["state"] == "running"
        with agent(disk.folder) as second:
            async with second.stub() as stub:
                found = await stub.GetTransfer(
                    pb.GetTransferRequest(transfer_id="t"), timeout=SECONDS
                )
                assert found.transfer.state == pb.TRANSFER_STATE_FAILED
                assert found.transfer.failure.reason == "AGENT_RESTARTED"
                assert found.transfer.revision > before.revision
                again = await stub.StartTransfer(disk.start, timeout=SECONDS)
                assert again.existed
                resumed = await ended(stub, "t")
    assert resumed.state == pb.TRANSFER_STATE_SUCCEEDED, resumed.failure
    assert resumed.progress.resumed_bytes >= before.progress.done_bytes // 3
    assert_identical(disk.source, disk.image)


async def test_stopped_agent_checkpoints(disk: Disk) -> None:
    with serving(disk.folder, *disk.slow):
        with agent(disk.folder, checkpoint_seconds=600) as first:
            async with first.stub() as stub:
                await stub.StartTransfer(disk.start, timeout=SECONDS)
                before = await progressed(stub, "t", disk.size // 2)
            first.process.terminate()
            assert first.process.wait(15) == 0
            assert first.left_behind() == []
        saved = saved_transfer(disk.folder, "t")
        assert saved["state"] == "failed"
        with agent(disk.folder) as second:
            async with second.stub() as stub:
                await stub.StartTransfer(disk.start, timeout=SECONDS)
                resumed = await ended(stub, "t")
    assert resumed.progress.resumed_bytes >= before.progress.done_bytes
    assert_identical(disk.source, disk.image)


async def test_source_that_comes_back_is_opened_again(disk: Disk) -> None:
    with agent(disk.folder) as running:
        async with running.stub() as stub:
            with serving(disk.folder, *disk.slow):
                await stub.StartTransfer(disk.start, timeout=SECONDS)
                await progressed(stub, "t", disk.size // 2)
            with serving(disk.folder, *disk.slow):
                transfer = await ended(stub, "t")
    assert transfer.state == pb.TRANSFER_STATE_SUCCEEDED
    assert transfer.attempts == 1
    assert transfer.progress.done_bytes == disk.size
    assert_identical(disk.source, disk.image)


async def test_killed_qemu_nbd_fails_the_transfer_at_once(disk: Disk) -> None:
    with serving(disk.folder, *disk.slow), agent(disk.folder) as running:
        async with running.stub() as stub:
            await stub.StartTransfer(disk.start, timeout=SECONDS)
            await progressed(stub, "t", disk.size // 2)
            (pidfile,) = running.run_dir.glob("w-*/target.pid")
            os.kill(int(pidfile.read_text()), signal.SIGKILL)
            failed = await ended(stub, "t")
            assert failed.failure.reason == "TARGET_FAILED"
            await stub.StartTransfer(disk.start, timeout=SECONDS)
            assert (await ended(stub, "t")).state == pb.TRANSFER_STATE_SUCCEEDED
    assert_identical(disk.source, disk.image)


async def test_cycles_of_start_and_kill_leave_nothing(disk: Disk) -> None:
    with serving(disk.folder, *disk.slow), agent(disk.folder) as running:
        async with running.stub() as stub:
            for number in range(6):
                await stub.StartTransfer(disk.start, timeout=SECONDS)
                await running_state(stub)
                # From before its first line to the midst of the copy.
                await asyncio.sleep(0.05 * number)
                for worker in running.workers():
                    os.kill(worker, signal.SIGKILL)
                if (await ended(stub, "t")).state == pb.TRANSFER_STATE_SUCCEEDED:
                    break
                assert running.left_behind() == []
            await stub.StartTransfer(disk.start, timeout=SECONDS)
            assert (await ended(stub, "t")).state == pb.TRANSFER_STATE_SUCCEEDED
        assert not list(running.run_dir.iterdir())
    assert_identical(disk.source, disk.image)


async def test_killed_in_mid_repair_the_next_one_ends_it(disk: Disk) -> None:
    repair = pb.StartTransferRequest()
    repair.CopyFrom(disk.start)
    repair.transfer_id, repair.mode = "r", pb.TRANSFER_MODE_REPAIR
    with agent(disk.folder) as running:
        async with running.stub() as stub:
            with serving(disk.folder, "file", str(disk.source)):
                await stub.StartTransfer(disk.start, timeout=SECONDS)
                assert (await ended(stub, "t")).state == pb.TRANSFER_STATE_SUCCEEDED
            _overwrite(disk.image, disk.size)
            with serving(disk.folder, *disk.slow):
                await stub.StartTransfer(repair, timeout=SECONDS)
                before = await progressed(stub, "r", disk.size // 2)
                (worker,) = running.workers()
                os.kill(worker, signal.SIGKILL)
                assert (await ended(stub, "r")).failure.reason == "WORKER_DIED"
            with serving(disk.folder, "file", str(disk.source)):
                await stub.StartTransfer(repair, timeout=SECONDS)
                done = await ended(stub, "r")
    assert before.progress.repaired_bytes > 0
    assert done.state == pb.TRANSFER_STATE_SUCCEEDED, done.failure
    assert 0 < done.progress.repaired_bytes < disk.size
    assert done.progress.verified_bytes == disk.size
    assert_identical(disk.source, disk.image)


def _overwrite(image: Path, size: int) -> None:
    command = ["qemu-io", "-f", "qcow2", "-c", f"write -P 0x5a 0 {size}", str(image)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
