"""What must hold before a conversion starts."""

import asyncio
from pathlib import Path
from typing import Protocol

from services.disk_agent.conversions.conversion import ConversionRequest, is_conversion_id
from services.disk_agent.errors import ConversionInvalid
from services.disk_agent.storage.images import Image
from services.disk_agent.transfers.errors import StaleEpoch


class ImageInspector(Protocol):
    """What a conversion asks of images; blocks."""

    def inspect(self, path: Path) -> Image:
        """Read an image's header. Raises ServiceError."""
        ...

    def check_unlocked(self, path: Path) -> None:
        """Raises ImageLocked while another process has the image open for writing."""
        ...


class Fences(Protocol):
    """The highest fencing epoch each image has seen; blocks."""

    def fence(self, target_path: str) -> int:
        """The highest epoch an image has seen; 0 before the first."""
        ...

    def raise_fence(self, target_path: str, epoch: int) -> None:
        """Refuse lower epochs for this image from now on."""
        ...


def check_request(request: ConversionRequest) -> None:
    """Raises ConversionInvalid naming the fields that can never be right."""
    paths = request.image_paths
    problems = {
        "conversion_id": not is_conversion_id(request.conversion_id),
        "image_paths": not paths
        or len(set(paths)) != len(paths)
        or not all(path.is_absolute() for path in paths),
        "timeout_seconds": request.timeout_seconds < 0,
    }
    wrong = [name for name, bad in problems.items() if bad]
    if wrong:
        raise ConversionInvalid(
            message=f"a conversion needs a valid {', '.join(wrong)}",
            metadata={"field": ",".join(wrong)},
        )


async def check_images(images: ImageInspector, request: ConversionRequest) -> None:
    """Raises what `Images.inspect` and `Images.check_unlocked` raise."""
    for path in request.image_paths:
        await asyncio.to_thread(images.inspect, path)
        await asyncio.to_thread(images.check_unlocked, path)


async def check_epoch(fences: Fences, request: ConversionRequest, epoch: int) -> None:
    """Raises StaleEpoch for an epoch below what an image has seen; remembers a higher one."""
    for path in request.image_paths:
        seen = await asyncio.to_thread(fences.fence, str(path))
        if epoch < seen:
            raise StaleEpoch(
                message=f"epoch {epoch} is over: {path} has seen epoch {seen}",
                metadata={"epoch": str(epoch), "seen_epoch": str(seen)},
            )
        if epoch > seen:
            await asyncio.to_thread(fences.raise_fence, str(path), epoch)
