"""What is checked before a conversion starts."""

import asyncio
from pathlib import Path
from typing import Protocol

from services.disk_agent.conversions.conversion import ConversionRequest
from services.disk_agent.conversions.errors import ConversionInvalid
from services.disk_agent.resources.record import is_resource_id
from services.disk_agent.storage.images import Image


class ImageInspector(Protocol):
    """What a conversion needs of `Images`; methods block."""

    def inspect(self, path: Path) -> Image:
        """Read an image's header. Raises ServiceError."""
        ...

    def check_unlocked(self, path: Path) -> None:
        """Raises ImageLocked while another process has the image open for writing."""
        ...


def check_request(request: ConversionRequest) -> None:
    """Raises ConversionInvalid, naming the fields that cannot be valid."""
    paths = request.image_paths
    problems = {
        "conversion_id": not is_resource_id(request.conversion_id),
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
