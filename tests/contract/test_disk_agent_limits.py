"""Limits of a running agent, measured; transfers that are paused and resumed."""

import asyncio
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc
import pytest
import yaml

from services.kit.errors import RemoteError
from tests.rigs.disk.agent import AgentProcess, agent, ended, progressed, request
from tests.rigs.disk.transfer import create_image, serving
from v2c.disk.v1 import disk_pb2 as pb
from v2c.disk.v1 import disk_pb2_grpc

# It measures: other tests beside it would be measured too.
pytestmark = pytest.mark.alone

Stub: TypeAlias = "disk_pb2_grpc.DiskServiceAsyncStub"
MIB = 1 << 20
SECONDS = 20.0
AGENT_RATE = 24 * MIB
SIZE = 256 * MIB


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    # What earlier tests left to be written would have the disk for some seconds yet.
    os.sync()
    limits: dict[str, object] = {"agent_mbps": AGENT_RATE / 1e6}
    with agent(tmp_path_factory.mktemp("a"), limits=limits, checkpoint_seconds=1) as process:
        yield process


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """A disk without a zero, at no cost."""
    with serving(tmp_path, "pattern", f"size={SIZE}"):
        yield tmp_path


def order(folder: Path, name: str, **changes: object) -> pb.StartTransferRequest:
    image = folder / f"{name}.qcow2"
    create_image(image, SIZE)
    return request(folder, f"{folder.name}-{name}", SIZE, image, disk_id=name, **changes)


@dataclass
class Moment:
    """What a transfer had read when its snapshot was received."""

    time: float
    read_bytes: int

    def rate(self, later: "Moment") -> float:
        return (later.read_bytes - self.read_bytes) / (later.time - self.time)


async def moments(stub: Stub, transfer_id: str, *offsets_seconds: float) -> list[Moment]:
    """A transfer's progress, as it was reported first after each of these seconds."""
    begin, found, waited = time.monotonic(), list[Moment](), list(offsets_seconds)
    seen = 0
    async for answer in stub.WatchTransfer(pb.WatchTransferRequest(transfer_id=transfer_id)):
        now, progress = time.monotonic(), answer.transfer.progress
        # A snapshot that only repeats the last report is as old as that one.
        moved, seen = progress.read_bytes > seen, progress.read_bytes
        if waited and now - begin >= waited[0] and moved:
            found.append(Moment(now, progress.read_bytes))
            waited.pop(0)
        if not waited:
            break
    return found


async def cancelled(stub: Stub, *transfer_ids: str) -> None:
    for transfer_id in transfer_ids:
        await stub.CancelTransfer(
            pb.CancelTransferRequest(transfer_id=transfer_id), timeout=SECONDS
        )


async def test_the_agents_limit_holds_and_is_shared(running: AgentProcess, source: Path) -> None:
    async with running.stub() as stub:
        orders = [order(source, name) for name in ("one", "two")]
        for each in orders:
            await stub.StartTransfer(each, timeout=SECONDS)
        found = await asyncio.gather(*(moments(stub, o.transfer_id, 1, 4) for o in orders))
        got = await stub.GetTransfer(
            pb.GetTransferRequest(transfer_id=orders[0].transfer_id), timeout=SECONDS
        )
        await cancelled(stub, *(o.transfer_id for o in orders))
    assert got.transfer.effective_rate_bytes_per_second == pytest.approx(AGENT_RATE / 2, rel=0.001)
    for first, last in found:
        assert first.rate(last) == pytest.approx(AGENT_RATE / 2, rel=0.05)


async def test_a_changed_config_applies_to_running_transfers(tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "agent"
    folder.mkdir()
    with agent(folder, limits={"agent_mbps": 24}) as process:
        config = folder / "config.yaml"
        async with process.stub() as stub:
            start = order(source, "edited")
            await stub.StartTransfer(start, timeout=SECONDS)
            await progressed(stub, start.transfer_id, MIB)
            document = yaml.safe_load(config.read_text())
            config.write_text(yaml.safe_dump({**document, "limits": {"agent_mbps": 8}}))
            # Three seconds later, all of the next two are at the new rate.
            first, last = await moments(stub, start.transfer_id, 3, 5)
            got = await stub.GetTransfer(
                pb.GetTransferRequest(transfer_id=start.transfer_id), timeout=SECONDS
            )
            await cancelled(stub, start.transfer_id)
    assert got.transfer.effective_rate_bytes_per_second == 8_000_000
    assert first.rate(last) == pytest.approx(8e6, rel=0.05)


async def test_a_changed_limit_takes_effect_at_once(running: AgentProcess, source: Path) -> None:
    async with running.stub() as stub:
        start = order(source, "one", options=pb.TransferOptions(rate_bytes_per_second=4 * MIB))
        await stub.StartTransfer(start, timeout=SECONDS)
        await progressed(stub, start.transfer_id, MIB)
        changed = await stub.SetTransferRate(
            pb.SetTransferRateRequest(
                transfer_id=start.transfer_id, rate_bytes_per_second=16 * MIB
            ),
            timeout=SECONDS,
        )
        # A second later, all of the next two seconds are at the new rate.
        first, last = await moments(stub, start.transfer_id, 1, 3)
        await cancelled(stub, start.transfer_id)
    assert changed.transfer.rate_bytes_per_second == 16 * MIB
    assert changed.transfer.effective_rate_bytes_per_second == 16 * MIB
    assert first.rate(last) == pytest.approx(16 * MIB, rel=0.05)


async def test_a_paused_transfer_stops_and_resumes(running: AgentProcess, source: Path) -> None:
    async with running.stub() as stub:
        start = order(source, "one")
        name = start.transfer_id
        await stub.StartTransfer(start, timeout=SECONDS)
        await progressed(stub, name, MIB)
        held = await stub.PauseTransfer(pb.PauseTransferRequest(transfer_id=name), timeout=SECONDS)
        assert (held.transfer.paused, held.transfer.state) == (True, pb.TRANSFER_STATE_RUNNING)
        # What is in flight arrives.
        await asyncio.sleep(1.0)
        get = pb.GetTransferRequest(transfer_id=name)
        before = (await stub.GetTransfer(get, timeout=SECONDS)).transfer.progress
        await asyncio.sleep(1.0)
        after = (await stub.GetTransfer(get, timeout=SECONDS)).transfer.progress
        assert before.read_bytes == after.read_bytes < SIZE
        assert after.current_area.length_bytes == 256 << 10
        await stub.ResumeTransfer(pb.ResumeTransferRequest(transfer_id=name), timeout=SECONDS)
        moved = await progressed(stub, name, after.done_bytes + MIB)
        assert not moved.paused
        await stub.PauseTransfer(pb.PauseTransferRequest(transfer_id=name), timeout=SECONDS)
        await cancelled(stub, name)
        last = await ended(stub, name)
        assert (last.state, last.paused) == (pb.TRANSFER_STATE_CANCELLED, False)


async def test_an_older_epoch_pauses_nothing(running: AgentProcess, source: Path) -> None:
    async with running.stub() as stub:
        start = order(source, "one", epoch=5)
        await stub.StartTransfer(start, timeout=SECONDS)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.PauseTransfer(
                pb.PauseTransferRequest(transfer_id=start.transfer_id, epoch=4), timeout=SECONDS
            )
        assert RemoteError.from_rpc_error(caught.value).reason == "STALE_EPOCH"
        # A person knows of no epoch.
        held = await stub.PauseTransfer(
            pb.PauseTransferRequest(transfer_id=start.transfer_id), timeout=SECONDS
        )
        assert held.transfer.paused
        freed = await stub.ResumeTransfer(
            pb.ResumeTransferRequest(transfer_id=start.transfer_id), timeout=SECONDS
        )
        assert not freed.transfer.paused
        await stub.CancelTransfer(
            pb.CancelTransferRequest(transfer_id=start.transfer_id, epoch=5), timeout=SECONDS
        )
