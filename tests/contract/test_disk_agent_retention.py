"""Forgetting over gRPC: of images in use nothing goes, of others everything that has ended."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from services.kit.errors import RemoteError
from tests.rigs.disk.agent import AgentProcess, agent, ended, request
from tests.rigs.disk.transfer import assert_identical, create_image, overwrite, serving, write_disk
from v2c.disk.v1 import disk_pb2 as pb
from v2c.disk.v1 import disk_pb2_grpc

SECONDS = 20.0
LETTERS = "AB--C0-D"


def files(running: AgentProcess, image: Path) -> set[str]:
    """The folders in which this agent's state names an image or a transfer into it."""
    state = running.folder / "control" / "disk-agent"
    found = {path for path in state.rglob(f"*{image.stem}*") if path.is_file()}
    return {path.parent.name for path in found}


async def copy(
    stub: "disk_pb2_grpc.DiskServiceAsyncStub", folder: Path, size: int, image: Path
) -> None:
    """A full copy and a delta pass."""
    name = image.stem
    started = request(folder, f"{name}-0", size, image, epoch=1)
    await stub.StartTransfer(started, timeout=SECONDS)
    assert (await ended(stub, f"{name}-0")).state == pb.TRANSFER_STATE_SUCCEEDED
    await delta(stub, folder, size, image, 1)


async def delta(
    stub: "disk_pb2_grpc.DiskServiceAsyncStub", folder: Path, size: int, image: Path, number: int
) -> None:
    """A delta pass of one area."""
    name = f"{image.stem}-{number}"
    area = overwrite(folder / "source.raw", number, "x")
    ranges = pb.PutRangesRequest(
        ranges_id=f"{name}-ranges",
        capacity_bytes=size,
        areas=[pb.Area(offset_bytes=area.offset_bytes, length_bytes=area.length_bytes)],
    )
    await stub.PutRanges(iter([ranges]), timeout=SECONDS)
    started = request(
        folder,
        name,
        size,
        image,
        epoch=1,
        mode=pb.TRANSFER_MODE_RANGES,
        ranges_id=f"{name}-ranges",
        pass_number=number,
        snapshot_id=f"snapshot-{number}",
    )
    await stub.StartTransfer(started, timeout=SECONDS)
    assert (await ended(stub, name)).state == pb.TRANSFER_STATE_SUCCEEDED


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[AgentProcess]:
    with agent(tmp_path) as process:
        yield process


async def test_of_ended_migrations_nothing_stays_and_others_continue(
    running: AgentProcess, tmp_path: Path
) -> None:
    size = write_disk(tmp_path / "source.raw", LETTERS)
    used, left = tmp_path / "used.qcow2", tmp_path / "left.qcow2"
    for image in (used, left):
        create_image(image, size)
    with serving(tmp_path, "file", str(tmp_path / "source.raw")):
        async with running.stub() as stub:
            for image in (used, left):
                await copy(stub, tmp_path, size, image)
            everything = {"transfers", "ranges", "maps", "fences"}
            assert files(running, left) == everything
            prune = pb.PruneRecordsRequest(image_paths_in_use=[str(used)])
            prune.ended_before.FromSeconds(int(time.time()) - 3600)
            assert await stub.PruneRecords(prune, timeout=SECONDS) == pb.PruneRecordsResponse()
            assert files(running, left) == everything
            prune.ended_before.FromSeconds(int(time.time()) + 3600)
            pruned = await stub.PruneRecords(prune, timeout=SECONDS)
            assert pruned.transfer_count == 2
            assert files(running, left) == set()
            assert left.exists()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetTransfer(pb.GetTransferRequest(transfer_id="left-1"), timeout=SECONDS)
            assert RemoteError.from_rpc_error(caught.value).reason == "TRANSFER_NOT_FOUND"
            assert files(running, used) == everything
            again = request(tmp_path, "used-0", size, used, epoch=1)
            assert (await stub.StartTransfer(again, timeout=SECONDS)).existed
            await delta(stub, tmp_path, size, used, 2)
    assert_identical(tmp_path / "source.raw", used)
