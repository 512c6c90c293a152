"""Pools and images: proto to domain and back, nothing else."""

import asyncio
from pathlib import Path
from typing import Any, TypeAlias

import grpc

from services.disk_agent.conversions.registry import Conversions
from services.disk_agent.storage.errors import PoolInvalid
from services.disk_agent.storage.images import Image, Images
from services.disk_agent.storage.pool import Pool, PoolMount, PoolType
from services.disk_agent.storage.pools import Pools
from services.disk_agent.transfers.registry import Transfers
from v2c.disk.v1 import disk_pb2 as pb
from v2c.disk.v1 import disk_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_POOL_TYPES = {
    pb.POOL_TYPE_NETWORK_FILESYSTEM: PoolType.NETWORK_FILESYSTEM,
    pb.POOL_TYPE_FILESYSTEM: PoolType.FILESYSTEM,
    pb.POOL_TYPE_SHARED_MOUNT_POINT: PoolType.SHARED_MOUNT_POINT,
}
_POOL_TYPE_NUMBERS = {kind: number for number, kind in _POOL_TYPES.items()}


class ImageServicer(disk_pb2_grpc.DiskServiceServicer):
    """The part of DiskService about pools and images."""

    _pools: Pools
    _images: Images
    _transfers: Transfers
    _conversions: Conversions

    async def EnsurePool(
        self, request: pb.EnsurePoolRequest, context: Context
    ) -> pb.EnsurePoolResponse:
        """Mount a pool if needed, and check that it is writable."""
        pool = await asyncio.to_thread(self._pools.ensure, _mount(request.pool))
        return pb.EnsurePoolResponse(pool=_pool(pool))

    async def ListPools(
        self, request: pb.ListPoolsRequest, context: Context
    ) -> pb.ListPoolsResponse:
        """Return the pools that EnsurePool has made reachable."""
        pools = await asyncio.to_thread(self._pools.list)
        return pb.ListPoolsResponse(pools=[_pool(pool) for pool in pools])

    async def ReleasePool(
        self, request: pb.ReleasePoolRequest, context: Context
    ) -> pb.ReleasePoolResponse:
        """Unmount a pool if this agent mounted it, and forget it."""
        await asyncio.to_thread(self._pools.release, request.id, self._at_work)
        return pb.ReleasePoolResponse()

    def _at_work(self, directory: Path) -> str:
        return self._transfers.at_work_in(directory) or self._conversions.at_work_in(directory)

    async def CreateImage(
        self, request: pb.CreateImageRequest, context: Context
    ) -> pb.CreateImageResponse:
        """Create an empty image, or return the one that exists."""
        image, existed = await asyncio.to_thread(self._create, request)
        return pb.CreateImageResponse(image=_image(image), existed=existed)

    def _create(self, request: pb.CreateImageRequest) -> tuple[Image, bool]:
        directory = self._pools.get(request.pool_id).path
        with self._pools.using(directory):
            return self._images.create(
                directory, request.name, request.size_bytes, request.expected_bytes
            )

    async def GetImage(self, request: pb.GetImageRequest, context: Context) -> pb.GetImageResponse:
        """Return what an image's header and lock show."""
        image = await asyncio.to_thread(self._images.inspect, Path(request.path))
        return pb.GetImageResponse(image=_image(image))

    async def ResizeImage(
        self, request: pb.ResizeImageRequest, context: Context
    ) -> pb.ResizeImageResponse:
        """Grow an image."""
        image = await asyncio.to_thread(self._resize, Path(request.path), request.size_bytes)
        return pb.ResizeImageResponse(image=_image(image))

    def _resize(self, path: Path, size_bytes: int) -> Image:
        with self._pools.using(path.parent):
            return self._images.resize(path, size_bytes)

    async def DeleteImage(
        self, request: pb.DeleteImageRequest, context: Context
    ) -> pb.DeleteImageResponse:
        """Delete an image, its chunk map and the record of its conversion."""
        self._transfers.check_idle(request.path)
        deleted = await asyncio.to_thread(self._delete, Path(request.path))
        await self._transfers.forget_image(request.path)
        await self._conversions.forget_image(Path(request.path))
        return pb.DeleteImageResponse(deleted=deleted)

    def _delete(self, path: Path) -> bool:
        with self._pools.using(path.parent):
            return self._images.delete(path)


def _mount(pool: pb.Pool) -> PoolMount:
    kind = _POOL_TYPES.get(pool.type)
    if kind is None:
        raise PoolInvalid(message="a pool needs a type", metadata={"field": "pool.type"})
    return PoolMount(pool.id, kind, pool.source, Path(pool.path), pool.options)


def _pool(pool: Pool) -> pb.Pool:
    return pb.Pool(
        id=pool.mount.id,
        type=_POOL_TYPE_NUMBERS[pool.mount.type],
        source=pool.mount.source,
        options=pool.mount.options,
        path=str(pool.path),
        mounted_by_agent=pool.mounted_by_agent,
        size_bytes=pool.size_bytes,
        free_bytes=pool.free_bytes,
    )


def _image(image: Image) -> pb.Image:
    return pb.Image(
        path=str(image.path),
        size_bytes=image.size_bytes,
        allocated_bytes=image.allocated_bytes,
        locked=image.locked,
        backing_file=image.backing_file,
        compat=image.compat,
    )
