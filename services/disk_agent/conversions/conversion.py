"""Conversions as values: the request, the conversion's state, the record of a converted image."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from services.disk_agent.resources.record import State, next_revision
from services.kit.failure import Failure


@dataclass(frozen=True)
class ConversionRequest:
    """What is to be converted.

    ``image_paths`` are the machine's QCOW2 files, the boot disk first. virt-v2v gets only the boot
    disk unless ``all_disks`` is set. ``virtio_iso`` is the virtio-win ISO for Windows guests, None
    for the drivers installed on the host. ``timeout_seconds`` 0 is the agent's default.
    """

    conversion_id: str
    image_paths: tuple[Path, ...]
    all_disks: bool = False
    virtio_iso: Path | None = None
    timeout_seconds: float = 0

    @property
    def converted_paths(self) -> tuple[Path, ...]:
        """The images that virt-v2v converts."""
        return self.image_paths if self.all_disks else self.image_paths[:1]

    @property
    def identity(self) -> object:
        """The parameters that must be the same when a conversion is started again."""
        return self.image_paths, self.all_disks


@dataclass(frozen=True)
class Conversion:
    """A conversion at one moment. ``revision`` grows with each change, also over restarts.

    ``committing`` is set before the first byte is written into the images, and cleared after the
    last. While it is set, the overlays are needed to complete the images, also after a crash.
    """

    request: ConversionRequest
    state: State
    revision: int
    create_time: float
    log_path: Path
    epoch: int = 0
    step: str = ""
    warnings: tuple[str, ...] = ()
    requires_uefi: bool = False
    guest_os: str = ""
    failure: Failure | None = None
    end_time: float | None = None
    committing: bool = False

    @property
    def id(self) -> str:
        """The id that the caller chose."""
        return self.request.conversion_id

    @property
    def cancellable(self) -> bool:
        """Whether a failed conversion may become CANCELLED: not if its commit must be finished."""
        return not self.committing

    def changed(self, now: float, **changes: Any) -> Self:
        """A copy with changes and a higher revision."""
        return replace(self, revision=next_revision(self.revision, now), **changes)


@dataclass(frozen=True)
class Converted:
    """The record that an image holds a converted guest, kept until the image is deleted."""

    conversion_id: str
    time: float
    guest_os: str = ""
    requires_uefi: bool = False
    warnings: tuple[str, ...] = field(default=())

    def as_changes(self) -> dict[str, Any]:
        """The changes that make another conversion of this image SUCCEEDED."""
        return {
            "state": State.SUCCEEDED,
            "warnings": self.warnings,
            "guest_os": self.guest_os,
            "requires_uefi": self.requires_uefi,
        }
