"""Transfers over gRPC: resources that are started, attached to, watched and cancelled."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TypeAlias

import grpc
import pytest

from services.disk_agent.chunk_map.chunk_map import ChunkMap
from services.disk_agent.chunk_map.digests import BLAKE3
from services.kit.errors import RemoteError
from services.kit.failure import Code
from tests.rigs.disk.agent import AgentProcess, agent, ended, progressed, request
from tests.rigs.disk.transfer import (
    BLOCK,
    assert_identical,
    create_image,
    overwrite,
    serving,
    write_disk,
)
from v2c.disk.v1 import disk_pb2 as pb
from v2c.disk.v1 import disk_pb2_grpc

Stub: TypeAlias = "disk_pb2_grpc.DiskServiceAsyncStub"
LETTERS = "AAAA----BBBBC0-D" * 16
SECONDS = 20.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with agent(tmp_path_factory.mktemp("a")) as process:
        yield process


@pytest.fixture
async def stub(running: AgentProcess) -> AsyncIterator[Stub]:
    async with running.stub() as client:
        yield client


class Disk:
    """A source and an image for one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "source.raw"
        self.size = write_disk(self.source, LETTERS)
        self.image = folder / "disk.qcow2"
        create_image(self.image, self.size)

    def request(self, **changes: object) -> pb.StartTransferRequest:
        changes.setdefault("transfer_id", self.folder.name)
        return request(self.folder, size=self.size, image=self.image, **changes)  # type: ignore[arg-type]


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


@pytest.fixture
def fast(disk: Disk) -> Iterator[None]:
    with serving(disk.folder, "file", str(disk.source)):
        yield


@pytest.fixture
def slow(disk: Disk) -> Iterator[None]:
    with serving(disk.folder, "--filter=delay", "file", str(disk.source), "rdelay=100ms"):
        yield


async def refused(call: object) -> RemoteError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return RemoteError.from_rpc_error(caught.value)


async def test_copy_with_progress_and_digest(stub: Stub, disk: Disk, fast: None) -> None:
    started = await stub.StartTransfer(disk.request(), timeout=SECONDS)
    assert not started.existed
    assert started.transfer.state == pb.TRANSFER_STATE_QUEUED
    transfer = await ended(stub, disk.folder.name)
    assert transfer.state == pb.TRANSFER_STATE_SUCCEEDED
    assert transfer.progress.done_bytes == transfer.progress.total_bytes == disk.size
    assert transfer.digest
    assert transfer.attempts == 1
    assert transfer.end_time.seconds >= transfer.create_time.seconds > 0
    assert_identical(disk.source, disk.image)


async def test_digests_are_those_of_the_config(disk: Disk, fast: None) -> None:
    with agent(disk.folder, digest=BLAKE3) as process:
        async with process.stub() as stub:
            await stub.StartTransfer(disk.request(), timeout=SECONDS)
            transfer = await ended(stub, disk.folder.name)
    (path,) = (disk.folder / "control" / "disk-agent" / "maps").iterdir()
    with ChunkMap.open(path) as chunk_map:
        assert chunk_map.header.digest == BLAKE3
        assert transfer.digest == chunk_map.digest()


async def test_delta_by_range_set_and_verification(stub: Stub, disk: Disk, fast: None) -> None:
    name = disk.folder.name
    await stub.StartTransfer(disk.request(), timeout=SECONDS)
    await ended(stub, name)
    areas = [overwrite(disk.source, 3, "xy"), overwrite(disk.source, 40, "0" * 8)]

    async def messages() -> AsyncIterator[pb.PutRangesRequest]:
        for area in areas:
            yield pb.PutRangesRequest(
                ranges_id=f"{name}-ranges",
                capacity_bytes=disk.size,
                areas=[pb.Area(offset_bytes=area.offset_bytes, length_bytes=area.length_bytes)],
            )

    summary = await stub.PutRanges(messages(), timeout=SECONDS)
    assert (summary.count, summary.total_bytes) == (2, 10 * BLOCK)
    delta = {"pass_number": 1, "snapshot_id": "snapshot-2"}
    await stub.StartTransfer(
        disk.request(
            transfer_id=f"{name}-1",
            mode=pb.TRANSFER_MODE_RANGES,
            ranges_id=f"{name}-ranges",
            **delta,
        ),
        timeout=SECONDS,
    )
    passed = await ended(stub, f"{name}-1")
    assert passed.state == pb.TRANSFER_STATE_SUCCEEDED
    assert passed.progress.total_bytes == 10 * BLOCK
    assert_identical(disk.source, disk.image)
    await stub.StartTransfer(
        disk.request(transfer_id=f"{name}-v", mode=pb.TRANSFER_MODE_VERIFY_TARGET, **delta),
        timeout=SECONDS,
    )
    assert (await ended(stub, f"{name}-v")).state == pb.TRANSFER_STATE_SUCCEEDED
    listed = await stub.ListTransfers(
        pb.ListTransfersRequest(target_path=str(disk.image)), timeout=SECONDS
    )
    assert [each.transfer_id for each in listed.transfers] == [f"{name}-v", f"{name}-1", name]


@pytest.mark.parametrize(
    "areas",
    [[(0, 20), (10, 20)], [(-512, 512)], [(1 << 40, 512)], [(0, -1)]],
    ids=["overlapping", "before", "behind", "negative"],
)
async def test_impossible_areas_are_refused(
    stub: Stub, disk: Disk, areas: list[tuple[int, int]]
) -> None:
    message = pb.PutRangesRequest(
        ranges_id="bad",
        capacity_bytes=disk.size,
        areas=[pb.Area(offset_bytes=at, length_bytes=length) for at, length in areas],
    )
    error = await refused(stub.PutRanges(iter([message]), timeout=SECONDS))
    assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, "RANGES_REFUSED")


async def test_unordered_and_empty_areas_are_put_in_order(stub: Stub, disk: Disk) -> None:
    areas = [(BLOCK, 512), (0, 512), (512, 0), (512, 512)]
    message = pb.PutRangesRequest(
        ranges_id="unordered",
        capacity_bytes=disk.size,
        areas=[pb.Area(offset_bytes=at, length_bytes=length) for at, length in areas],
    )
    summary = await stub.PutRanges(iter([message]), timeout=SECONDS)
    assert (summary.count, summary.total_bytes) == (2, 1536)


async def test_same_id_attaches_and_other_parameters_are_refused(
    stub: Stub, disk: Disk, slow: None
) -> None:
    await stub.StartTransfer(disk.request(), timeout=SECONDS)
    again = await stub.StartTransfer(disk.request(), timeout=SECONDS)
    assert again.existed
    error = await refused(
        stub.StartTransfer(disk.request(snapshot_id="snapshot-9"), timeout=SECONDS)
    )
    assert (error.code, error.reason) == (Code.ALREADY_EXISTS, "TRANSFER_EXISTS")
    busy = await refused(stub.StartTransfer(disk.request(transfer_id="other"), timeout=SECONDS))
    assert (busy.code, busy.reason) == (Code.ABORTED, "TARGET_BUSY")
    await stub.CancelTransfer(
        pb.CancelTransferRequest(transfer_id=disk.folder.name), timeout=SECONDS
    )


async def test_cancel_ends_everything_and_the_next_transfer_resumes(
    running: AgentProcess, stub: Stub, disk: Disk, slow: None
) -> None:
    name = disk.folder.name
    await stub.StartTransfer(disk.request(), timeout=SECONDS)
    await progressed(stub, name, disk.size // 3)
    cancelled = await stub.CancelTransfer(
        pb.CancelTransferRequest(transfer_id=name), timeout=SECONDS
    )
    assert cancelled.transfer.state == pb.TRANSFER_STATE_CANCELLED
    assert running.left_behind() == []
    error = await refused(stub.StartTransfer(disk.request(), timeout=SECONDS))
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "TRANSFER_ENDED")
    await stub.StartTransfer(disk.request(transfer_id=f"{name}-next"), timeout=SECONDS)
    transfer = await ended(stub, f"{name}-next")
    assert transfer.progress.resumed_bytes >= disk.size // 4
    assert_identical(disk.source, disk.image)


async def test_older_epoch_is_refused(stub: Stub, disk: Disk, slow: None) -> None:
    name = disk.folder.name
    await stub.StartTransfer(disk.request(epoch=7), timeout=SECONDS)
    for call in (
        stub.StartTransfer(disk.request(epoch=6), timeout=SECONDS),
        stub.CancelTransfer(pb.CancelTransferRequest(transfer_id=name, epoch=6), timeout=SECONDS),
    ):
        error = await refused(call)
        assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "STALE_EPOCH")
    await stub.CancelTransfer(pb.CancelTransferRequest(transfer_id=name, epoch=8), timeout=SECONDS)


async def test_rate_limit_changes_while_running(stub: Stub, disk: Disk, fast: None) -> None:
    name = disk.folder.name
    options = pb.TransferOptions(queue_depth=4, chunk_bytes=64 << 10, rate_bytes_per_second=1 << 20)
    await stub.StartTransfer(disk.request(options=options), timeout=SECONDS)
    began = time.monotonic()
    at_first = await progressed(stub, name, disk.size // 8)
    assert time.monotonic() - began > 0.8
    assert at_first.progress.rate_bytes_per_second < 2 << 20
    changed = await stub.SetTransferRate(
        pb.SetTransferRateRequest(transfer_id=name, rate_bytes_per_second=0), timeout=SECONDS
    )
    assert changed.transfer.state == pb.TRANSFER_STATE_RUNNING
    await asyncio.wait_for(ended(stub, name), 5)
    assert_identical(disk.source, disk.image)


async def test_watch_sends_a_snapshot_every_second(stub: Stub, disk: Disk) -> None:
    """Also while nothing moves: here the source cannot be reached."""
    name = disk.folder.name
    await stub.StartTransfer(disk.request(), timeout=SECONDS)
    moments: list[float] = []
    async for _ in stub.WatchTransfer(pb.WatchTransferRequest(transfer_id=name)):
        moments.append(time.monotonic())
        if len(moments) > 3:
            break
    assert max(later - one for one, later in itertools.pairwise(moments)) < 1.5
    await stub.CancelTransfer(pb.CancelTransferRequest(transfer_id=name), timeout=SECONDS)


async def test_ended_transfer_can_be_deleted(stub: Stub, disk: Disk, fast: None) -> None:
    name = disk.folder.name
    await stub.StartTransfer(disk.request(), timeout=SECONDS)
    await ended(stub, name)
    for _ in range(2):
        await stub.DeleteTransfer(pb.DeleteTransferRequest(transfer_id=name), timeout=SECONDS)
    error = await refused(
        stub.GetTransfer(pb.GetTransferRequest(transfer_id=name), timeout=SECONDS)
    )
    assert (error.code, error.reason) == (Code.NOT_FOUND, "TRANSFER_NOT_FOUND")


async def test_missing_image_fails_the_transfer(stub: Stub, disk: Disk, fast: None) -> None:
    disk.image.unlink()
    await stub.StartTransfer(disk.request(), timeout=SECONDS)
    transfer = await ended(stub, disk.folder.name)
    assert transfer.state == pb.TRANSFER_STATE_FAILED
    assert transfer.failure.reason == "TARGET_MISSING"
    # A retry would meet the same: what was copied is gone with the file.
    assert "cancel" in transfer.failure.hint


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"mode": pb.TRANSFER_MODE_UNSPECIFIED}, "mode"),
        ({"mode": pb.TRANSFER_MODE_RANGES}, "ranges_id"),
        ({"source": pb.Source()}, "source"),
        ({"transfer_id": "../x"}, "transfer_id"),
        ({"target_path": "relative"}, "target_path"),
        ({"capacity_bytes": 0}, "capacity_bytes"),
        ({"options": pb.TransferOptions(chunk_bytes=1000)}, "chunk_bytes"),
    ],
)
async def test_impossible_requests_name_the_field(
    stub: Stub, disk: Disk, changes: dict[str, object], named: str
) -> None:
    error = await refused(stub.StartTransfer(disk.request(**changes), timeout=SECONDS))
    assert error.code is Code.INVALID_ARGUMENT
    assert named in error.message


async def test_missing_vddk_names_the_setting(stub: Stub, disk: Disk) -> None:
    vddk = pb.VddkSource(vm_moref="vm-1", snapshot_moref="s-1", disk_path="[ds] a/a.vmdk")
    await stub.StartTransfer(disk.request(source=pb.Source(vddk=vddk)), timeout=SECONDS)
    transfer = await ended(stub, disk.folder.name)
    assert transfer.failure.reason == "VDDK_NOT_FOUND"
    assert "migration.vddk_path" in transfer.failure.hint
    assert not transfer.failure.retryable


async def test_pools_and_images(stub: Stub, tmp_path: Path) -> None:
    pool = pb.Pool(id="p1", type=pb.POOL_TYPE_FILESYSTEM, source=str(tmp_path), path=str(tmp_path))
    ensured = await stub.EnsurePool(pb.EnsurePoolRequest(pool=pool), timeout=SECONDS)
    assert ensured.pool.path == str(tmp_path)
    assert ensured.pool.free_bytes > 0
    create = pb.CreateImageRequest(pool_id="p1", name="one.qcow2", size_bytes=1 << 20)
    created = await stub.CreateImage(create, timeout=SECONDS)
    assert not created.existed
    assert (await stub.CreateImage(create, timeout=SECONDS)).existed
    path = created.image.path
    grown = await stub.ResizeImage(
        pb.ResizeImageRequest(path=path, size_bytes=2 << 20), timeout=SECONDS
    )
    assert grown.image.size_bytes == 2 << 20
    seen = await stub.GetImage(pb.GetImageRequest(path=path), timeout=SECONDS)
    assert (seen.image.compat, seen.image.backing_file) == ("1.1", "")
    assert (await stub.DeleteImage(pb.DeleteImageRequest(path=path), timeout=SECONDS)).deleted
    again = await stub.DeleteImage(pb.DeleteImageRequest(path=path), timeout=SECONDS)
    assert not again.deleted
    await stub.ReleasePool(pb.ReleasePoolRequest(id="p1"), timeout=SECONDS)
    assert (await stub.ListPools(pb.ListPoolsRequest(), timeout=SECONDS)).pools == []


async def test_capabilities(stub: Stub) -> None:
    found = await stub.GetCapabilities(pb.GetCapabilitiesRequest(), timeout=SECONDS)
    assert "nbd" in found.sources
    assert any(source.startswith("vddk-") for source in found.sources)
    assert found.versions["nbdkit"]
    assert pb.TRANSFER_MODE_RESYNC in found.transfer_modes
