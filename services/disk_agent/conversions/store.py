"""The files of conversions: one folder each, and marks of converted images."""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.disk_agent.conversions.conversion import Conversion, ConversionRequest, Converted
from services.disk_agent.host.errors import StateDamaged
from services.disk_agent.host.state_file import read_state, write_state
from services.disk_agent.resources.record import State
from services.kit.failure import Failure

_STATE_FILE = "conversion.json"


class ConversionStore:
    """Conversions below one directory: one folder each, and marks of converted images.

    Methods block.
    """

    def __init__(self, work_dir: Path, state_dir: Path) -> None:
        """``work_dir`` holds overlays, up to some hundred MB each; ``state_dir`` small files."""
        self._folders = work_dir / "conversions"
        self._marks = state_dir / "converted"
        for path in (self._folders, self._marks):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def folders(self) -> Path:
        """The directory with a folder per conversion."""
        return self._folders

    def folder(self, conversion_id: str) -> Path:
        """A conversion's own directory; `save` creates it."""
        return self._folders / conversion_id

    def overlays(self, request: ConversionRequest) -> tuple[Path, ...]:
        """The paths of the overlays, in the order of the converted images."""
        folder = self.folder(request.conversion_id)
        return tuple(folder / f"overlay-{n}.qcow2" for n in range(len(request.converted_paths)))

    def save(self, conversion: Conversion) -> None:
        """Write a conversion, atomically and durably."""
        write_state(self.folder(conversion.id) / _STATE_FILE, _to_wire(conversion))

    def load(self) -> Iterator[tuple[Path, Conversion | None]]:
        """All conversions with their files; None for a file with invalid content."""
        for path in sorted(self._folders.glob(f"*/{_STATE_FILE}")):
            try:
                content = read_state(path)
                yield path, _from_wire(content) if isinstance(content, dict) else None
            except (StateDamaged, ValueError, KeyError, TypeError):
                yield path, None

    def remove_overlays(self, request: ConversionRequest) -> None:
        """Remove a conversion's overlays and scratch files; its log stays."""
        for overlay in self.overlays(request):
            overlay.unlink(missing_ok=True)
        shutil.rmtree(self.folder(request.conversion_id) / "tmp", ignore_errors=True)

    def delete(self, request: ConversionRequest) -> None:
        """Remove a conversion's folder with its log."""
        self.remove_overlays(request)
        folder = self.folder(request.conversion_id)
        for path in folder.glob("*"):
            # The state file goes last: if this is interrupted, `load` still finds the folder.
            if path.name != _STATE_FILE and not path.is_dir():
                path.unlink()
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)

    def mark(self, image: Path, converted: Converted) -> None:
        """Record that an image holds a converted guest."""
        wire = {**asdict(converted), "path": str(image), "inode": image.stat().st_ino}
        write_state(self._mark_path(image), wire)

    def converted(self, image: Path) -> Converted | None:
        """The mark of an image; None also when another file has replaced the image since."""
        content = read_state(self._mark_path(image))
        if not isinstance(content, dict) or not image.exists():
            return None
        if content.pop("inode") != image.stat().st_ino:
            return None
        del content["path"]
        return Converted(**{**content, "warnings": tuple(content["warnings"])})

    def forget_image(self, image: Path) -> None:
        """Remove the mark of an image that was deleted."""
        self._mark_path(image).unlink(missing_ok=True)

    def _mark_path(self, image: Path) -> Path:
        digest = hashlib.sha256(str(image).encode()).hexdigest()[:16]
        return self._marks / f"{image.name[:80]}.{digest}.json"


def _to_wire(conversion: Conversion) -> dict[str, object]:
    request = conversion.request
    return {
        "request": {
            "conversion_id": request.conversion_id,
            "image_paths": [str(path) for path in request.image_paths],
            "all_disks": request.all_disks,
            "virtio_iso": str(request.virtio_iso) if request.virtio_iso else None,
            "timeout_seconds": request.timeout_seconds,
        },
        "state": conversion.state.value,
        "revision": conversion.revision,
        "create_time": conversion.create_time,
        "log_path": str(conversion.log_path),
        "epoch": conversion.epoch,
        "step": conversion.step,
        "warnings": list(conversion.warnings),
        "requires_uefi": conversion.requires_uefi,
        "guest_os": conversion.guest_os,
        "failure": conversion.failure.to_wire() if conversion.failure else None,
        "end_time": conversion.end_time,
        "committing": conversion.committing,
    }


def _from_wire(wire: Mapping[str, Any]) -> Conversion:
    fields = dict(wire)
    request = dict(fields.pop("request"))
    iso = request.pop("virtio_iso")
    images = tuple(Path(path) for path in request.pop("image_paths"))
    failure = fields.pop("failure")
    return Conversion(
        request=ConversionRequest(
            image_paths=images, virtio_iso=Path(iso) if iso else None, **request
        ),
        state=State(fields.pop("state")),
        log_path=Path(fields.pop("log_path")),
        warnings=tuple(fields.pop("warnings")),
        failure=Failure.from_wire(failure) if failure is not None else None,
        **fields,
    )
