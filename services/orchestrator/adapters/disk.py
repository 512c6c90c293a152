"""The storage host over v2c.disk.v1."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from services.orchestrator.adapters.caller import SLOW_SECONDS, Caller, member, reported
from services.orchestrator.ports.disk import (
    ConversionSnapshot,
    Pool,
    ReachedPool,
    TransferMode,
    TransferOrder,
    TransferSnapshot,
    WorkState,
)
from services.orchestrator.ports.vmware import Area
from v2c.disk.v1 import disk_pb2 as pb
from v2c.disk.v1 import disk_pb2_grpc as rpc

__all__ = ["DiskAgent"]

_POOL_TYPES = {
    "NetworkFilesystem": pb.POOL_TYPE_NETWORK_FILESYSTEM,
    "Filesystem": pb.POOL_TYPE_FILESYSTEM,
    "SharedMountPoint": pb.POOL_TYPE_SHARED_MOUNT_POINT,
}
_MODES = {
    TransferMode.FULL: pb.TRANSFER_MODE_FULL,
    TransferMode.RANGES: pb.TRANSFER_MODE_RANGES,
    TransferMode.RESYNC: pb.TRANSFER_MODE_RESYNC,
    TransferMode.VERIFY_TARGET: pb.TRANSFER_MODE_VERIFY_TARGET,
    TransferMode.REPAIR: pb.TRANSFER_MODE_REPAIR,
}
# About 100 KiB per message: few messages per disk, each far below gRPC's size limit.
_AREAS_PER_MESSAGE = 5000


class DiskAgent:
    """Implements `ports.DiskPort`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._stub = rpc.DiskServiceStub(caller.channel)

    def check(self) -> None:
        """Raise RemoteError unless the host answers."""
        self._caller.quick(self._stub.GetCapabilities, pb.GetCapabilitiesRequest())

    def ensure_pool(self, pool: Pool) -> ReachedPool:
        """Make the pool reachable."""
        wanted = pb.Pool(
            id=pool.id,
            type=_POOL_TYPES.get(pool.type, pb.POOL_TYPE_UNSPECIFIED),
            source=pool.source,
            path=pool.path,
            options=pool.options,
        )
        request = pb.EnsurePoolRequest(pool=wanted)
        reached = self._caller.slow(self._stub.EnsurePool, request).pool
        return ReachedPool(reached.path, reached.mounted_by_agent)

    def release_pool(self, pool_id: str) -> None:
        """Unmount the pool if the agent mounted it; an unknown pool is no error."""
        self._caller.slow(self._stub.ReleasePool, pb.ReleasePoolRequest(id=pool_id))

    def create_image(self, pool_id: str, name: str, size_bytes: int, expected_bytes: int) -> str:
        """Create the image, or find it with that size; returns its absolute path."""
        request = pb.CreateImageRequest(
            pool_id=pool_id, name=name, size_bytes=size_bytes, expected_bytes=expected_bytes
        )
        return self._caller.quick(self._stub.CreateImage, request).image.path

    def resize_image(self, path: str, size_bytes: int) -> None:
        """Grow the image; the same size is no error."""
        request = pb.ResizeImageRequest(path=path, size_bytes=size_bytes)
        self._caller.quick(self._stub.ResizeImage, request)

    def delete_image(self, path: str) -> None:
        """Delete the image and its control data."""
        self._caller.quick(self._stub.DeleteImage, pb.DeleteImageRequest(path=path))

    def put_ranges(self, ranges_id: str, capacity_bytes: int, areas: Iterator[Area]) -> int:
        """Store the areas; returns the bytes they cover.

        An error raised by `areas` is not translated.
        """
        # gRPC would hide an error that the iterator raises: read all of it before the call.
        known = tuple(areas)
        with self._caller.errors():
            answer = self._stub.PutRanges(
                _range_messages(ranges_id, capacity_bytes, known), timeout=SLOW_SECONDS
            )
        return answer.total_bytes

    def start_transfer(self, order: TransferOrder) -> TransferSnapshot:
        """Start the transfer, attach to it, or resume it if it failed."""
        request = pb.StartTransferRequest(
            transfer_id=order.transfer_id,
            mode=_MODES[order.mode],
            target_path=order.target_path,
            capacity_bytes=order.capacity_bytes,
            disk_id=order.disk_id,
            snapshot_id=order.snapshot_moref,
            pass_number=order.pass_number,
            ranges_id=order.ranges_id,
            options=pb.TransferOptions(queue_depth=order.queue_depth),
            epoch=order.epoch,
        )
        request.source.vddk.vm_moref = order.vm_moref
        request.source.vddk.snapshot_moref = order.snapshot_moref
        request.source.vddk.disk_path = order.source_path
        request.source.vddk.thumbprint = order.thumbprint
        return _transfer(self._caller.quick(self._stub.StartTransfer, request).transfer)

    def get_transfer(self, transfer_id: str) -> TransferSnapshot:
        """The transfer's present state and progress."""
        request = pb.GetTransferRequest(transfer_id=transfer_id)
        return _transfer(self._caller.quick(self._stub.GetTransfer, request).transfer)

    def cancel_transfer(self, transfer_id: str, epoch: int) -> None:
        """Stop the transfer."""
        request = pb.CancelTransferRequest(transfer_id=transfer_id, epoch=epoch)
        self._caller.quick(self._stub.CancelTransfer, request)

    def start_conversion(
        self, conversion_id: str, images: Sequence[str], virtio_iso: str, epoch: int
    ) -> ConversionSnapshot:
        """Start the conversion, or attach to it."""
        request = pb.StartConversionRequest(
            conversion_id=conversion_id, image_paths=images, virtio_iso=virtio_iso, epoch=epoch
        )
        return _conversion(self._caller.quick(self._stub.StartConversion, request).conversion)

    def get_conversion(self, conversion_id: str) -> ConversionSnapshot:
        """The conversion's present state and progress."""
        request = pb.GetConversionRequest(conversion_id=conversion_id)
        return _conversion(self._caller.quick(self._stub.GetConversion, request).conversion)

    def cancel_conversion(self, conversion_id: str, epoch: int) -> None:
        """Stop the conversion."""
        request = pb.CancelConversionRequest(conversion_id=conversion_id, epoch=epoch)
        self._caller.quick(self._stub.CancelConversion, request)

    def prune_records(
        self, images_in_use: Sequence[str], ranges_in_use: Sequence[str], ended_before: datetime
    ) -> None:
        """Remove records of transfers and conversions that ended before `ended_before`.

        Records and chunk maps of images in use, and range sets in use, are kept.
        """
        request = pb.PruneRecordsRequest(
            image_paths_in_use=images_in_use, ranges_ids_in_use=ranges_in_use
        )
        request.ended_before.FromDatetime(ended_before)
        self._caller.slow(self._stub.PruneRecords, request)


def _range_messages(
    ranges_id: str, capacity_bytes: int, areas: Sequence[Area]
) -> Iterator[pb.PutRangesRequest]:
    for start in range(0, max(len(areas), 1), _AREAS_PER_MESSAGE):
        batch = areas[start : start + _AREAS_PER_MESSAGE]
        yield pb.PutRangesRequest(
            ranges_id=ranges_id,
            capacity_bytes=capacity_bytes,
            areas=[pb.Area(offset_bytes=a.offset, length_bytes=a.length) for a in batch],
        )


def _transfer(transfer: pb.Transfer) -> TransferSnapshot:
    progress = transfer.progress
    return TransferSnapshot(
        transfer_id=transfer.transfer_id,
        state=member(WorkState, pb.TransferState.Name(transfer.state)),
        total_bytes=progress.total_bytes,
        done_bytes=progress.done_bytes,
        read_bytes=progress.read_bytes,
        written_bytes=progress.written_bytes,
        verified_bytes=progress.verified_bytes,
        unverified_bytes=progress.unverified_bytes,
        repaired_bytes=progress.repaired_bytes,
        rate_bytes_per_second=progress.rate_bytes_per_second,
        eta_seconds=progress.eta_seconds,
        digest=transfer.digest,
        failure=reported(transfer.failure),
    )


def _conversion(conversion: pb.Conversion) -> ConversionSnapshot:
    return ConversionSnapshot(
        state=member(WorkState, pb.ConversionState.Name(conversion.state)),
        step=conversion.step,
        warnings=tuple(conversion.warnings),
        requires_uefi=conversion.requires_uefi,
        guest_os=conversion.guest_os,
        log_path=conversion.log_path,
        failure=reported(conversion.failure),
    )
