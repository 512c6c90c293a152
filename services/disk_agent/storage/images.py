"""QCOW2 images in a pool's root that CloudStack's importer accepts.

The importer refuses a backing file, an external data file, incompatible feature bits above bit 3
such as ``extended_l2``, encryption and a lock. Images are created without these.
"""

import contextlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog

from services.disk_agent.host.commands import Commands, Completed, tool_failed
from services.disk_agent.host.qemu_lock import reports_lock
from services.disk_agent.host.state_file import read_state, write_state
from services.disk_agent.storage.errors import (
    ImageExists,
    ImageInvalid,
    ImageLocked,
    ImageNotFound,
    ImageShrinkRefused,
    ImageUnusable,
    PoolFull,
)
from services.disk_agent.storage.image_names import is_image_name

_SECTOR_BYTES = 512
_TIMEOUT_SECONDS = 60.0
# compat 1.1 (QCOW2 version 3) has zero clusters, which every zero write of a copy needs.
_OPTIONS = "compat=1.1,preallocation=off,extended_l2=off,cluster_size=65536,lazy_refcounts=off"

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Image:
    """A QCOW2 file at one moment. ``backing_file`` is empty if it has none."""

    path: Path
    size_bytes: int
    allocated_bytes: int
    locked: bool
    backing_file: str
    compat: str


class PoolRoots(Protocol):
    """The pool directories in which this agent may read and change images."""

    def root_of(self, image: Path) -> Path:
        """The pool directory an image lies in. Raises PoolNotFound or PoolMissing."""
        ...


class Images:
    """The images of this agent's pools. Methods block.

    The space that a copy is expected to need is stored per image until the image is deleted, so
    that several copies into one pool do not count on the same free space.
    """

    def __init__(self, commands: Commands, roots: PoolRoots, state_dir: Path) -> None:
        self._commands = commands
        self._roots = roots
        self._expected_file = state_dir / "expected-bytes.json"
        # Free space is checked and promised in one step.
        self._lock = threading.Lock()

    def create(
        self, pool: Path, name: str, size_bytes: int, expected_bytes: int = 0
    ) -> tuple[Image, bool]:
        """Create an empty image in a pool's root, unless it exists; returns it and whether it did.

        ``expected_bytes`` is the space that the copy will need on the pool; 0 skips its check.
        Raises ImageInvalid, ImageExists, PoolFull, PoolNotFound or PoolMissing.
        """
        if not is_image_name(name):
            raise ImageInvalid(
                message=f"{name!r} cannot be an image's name: letters, digits, '.', '_', '-', "
                "ending in .qcow2",
                metadata={"field": "name"},
            )
        if size_bytes <= 0 or size_bytes % _SECTOR_BYTES:
            raise ImageInvalid(
                message=f"an image of {size_bytes} bytes: the size must be whole sectors of 512",
                metadata={"field": "size_bytes"},
            )
        path = pool / name
        self._roots.root_of(path)
        with self._lock:
            if path.exists():
                return self._existing(path, size_bytes), True
            self._check_space(pool, expected_bytes)
            self._create_file(path, size_bytes)
            if expected_bytes:
                self._promise(path, expected_bytes)
        _log.info("image created", action="image.created", path=str(path), size_bytes=size_bytes)
        return self.inspect(path), False

    def inspect(self, path: Path) -> Image:
        """Read an image's header.

        Raises ImageNotFound, ImageUnusable, PoolNotFound or PoolMissing.
        """
        self._roots.root_of(path)
        if not path.is_file():
            raise ImageNotFound(message=f"there is no image {path}")
        command = ["qemu-img", "info", "--output=json", "-f", "qcow2"]
        done = self._commands.run([*command, str(path)], timeout_seconds=_TIMEOUT_SECONDS)
        locked = _is_locked(done)
        if locked:
            # -U reads without taking the lock.
            done = self._commands.run([*command, "-U", str(path)], timeout_seconds=_TIMEOUT_SECONDS)
        if done.status != 0:
            raise ImageUnusable(
                message=f"{path} cannot be read as QCOW2: {done.stderr.strip()[-300:]}",
                metadata={"path": str(path)},
            )
        return _image_of(path, json.loads(done.stdout), locked)

    def resize(self, path: Path, size_bytes: int) -> Image:
        """Grow an image; the same size is no error.

        Raises ImageShrinkRefused, ImageLocked, ImageInvalid, and what `inspect` raises.
        """
        image = self.inspect(path)
        if size_bytes % _SECTOR_BYTES:
            raise ImageInvalid(
                message=f"{size_bytes} bytes are not whole sectors of 512",
                metadata={"field": "size_bytes"},
            )
        if size_bytes < image.size_bytes:
            raise ImageShrinkRefused(
                message=f"{path} has {image.size_bytes} bytes and would shrink to {size_bytes}",
                metadata={"size_bytes": str(image.size_bytes)},
            )
        if size_bytes == image.size_bytes:
            return image
        done = self._commands.run(
            ["qemu-img", "resize", "-q", "-f", "qcow2", str(path), str(size_bytes)],
            timeout_seconds=_TIMEOUT_SECONDS,
        )
        if _is_locked(done):
            raise image_locked(path)
        if done.status != 0:
            raise tool_failed("qemu-img", done)
        return self.inspect(path)

    def delete(self, path: Path) -> bool:
        """Delete an image; returns whether there was one.

        Raises ImageLocked, PoolNotFound or PoolMissing: a pool that is not mounted is an error, and
        does not count as a missing image.
        """
        self._roots.root_of(path)
        with self._lock:
            if path.is_file():
                if self._probe_lock(path):
                    raise image_locked(path)
                path.unlink()
                deleted = True
            else:
                deleted = False
            self._promise(path, 0)
        if deleted:
            _log.info("image deleted", action="image.deleted", path=str(path))
        return deleted

    def forget(self, path: Path) -> None:
        """Drop the space promised to an image: nothing is copied into it any more."""
        with self._lock:
            self._promise(path, 0)

    def check_unlocked(self, path: Path) -> None:
        """Raises ImageLocked while another process has the image open for writing."""
        if self._probe_lock(path):
            raise image_locked(path)

    def _probe_lock(self, path: Path) -> bool:
        done = self._commands.run(
            ["qemu-img", "info", "--output=json", str(path)], timeout_seconds=_TIMEOUT_SECONDS
        )
        return _is_locked(done)

    def _existing(self, path: Path, size_bytes: int) -> Image:
        image = self.inspect(path)
        if image.size_bytes != size_bytes or image.backing_file:
            backing = f" and the backing file {image.backing_file}" if image.backing_file else ""
            raise ImageExists(
                message=f"{path} exists with {image.size_bytes} bytes{backing}; expected is an "
                f"image of {size_bytes} bytes without backing file",
                metadata={"path": str(path), "size_bytes": str(image.size_bytes)},
            )
        return image

    def _create_file(self, path: Path, size_bytes: int) -> None:
        # Created under another name and linked: the image is complete when it appears, and never
        # replaces a file that another process created meanwhile.
        fresh = path.with_name(f".{path.name}.new")
        try:
            fresh.unlink(missing_ok=True)
        except OSError as exc:
            raise ImageUnusable(
                message=f"{path} cannot be created: {exc.strerror}",
                metadata={"path": str(path)},
                hint="check that the folder exists and can be written to",
            ) from exc
        try:
            command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", _OPTIONS]
            done = self._commands.run(
                [*command, str(fresh), str(size_bytes)], timeout_seconds=_TIMEOUT_SECONDS
            )
            if done.status != 0:
                raise tool_failed("qemu-img", done)
            os.link(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)

    def _check_space(self, pool: Path, expected_bytes: int) -> None:
        if not expected_bytes:
            return
        status = os.statvfs(pool)
        free = status.f_bavail * status.f_frsize
        promised = sum(
            _outstanding(Path(path), expected)
            for path, expected in self._promises().items()
            if Path(path).parent == pool
        )
        if expected_bytes > free - promised:
            raise PoolFull(
                message=f"the pool {pool} is too full: {free} bytes are free, {promised} of them "
                f"promised to other disks, and the disk is expected to need {expected_bytes} bytes",
                metadata={
                    "needed_bytes": str(expected_bytes),
                    "free_bytes": str(free),
                    "promised_bytes": str(promised),
                },
            )

    def _promises(self) -> Mapping[str, int]:
        content = read_state(self._expected_file)
        if not isinstance(content, dict):
            return {}
        return {str(path): int(expected) for path, expected in content.items()}

    def _promise(self, path: Path, expected_bytes: int) -> None:
        before = self._promises()
        promises = {known: size for known, size in before.items() if known != str(path)}
        if expected_bytes:
            promises[str(path)] = expected_bytes
        if promises != before:
            write_state(self._expected_file, promises)


def image_locked(path: Path) -> ImageLocked:
    """The error for an image that another process writes to."""
    return ImageLocked(
        message=f"another process has {path} open for writing", metadata={"path": str(path)}
    )


def _is_locked(done: Completed) -> bool:
    return done.status != 0 and reports_lock(done.stderr)


def _outstanding(path: Path, expected_bytes: int) -> int:
    """The bytes that an image is still expected to need; 0 if its file was deleted."""
    with contextlib.suppress(FileNotFoundError):
        return max(expected_bytes - path.stat().st_blocks * 512, 0)
    return 0


def _image_of(path: Path, info: Mapping[str, Any], locked: bool) -> Image:
    details = info.get("format-specific", {}).get("data", {})
    if details.get("data-file") or info.get("encrypted"):
        raise ImageUnusable(
            message=f"{path} has an external data file or is encrypted, which CloudStack refuses",
            metadata={"path": str(path)},
            hint="v2c makes no such image: it may belong to another VM, so choose another name",
        )
    return Image(
        path=path,
        size_bytes=int(info["virtual-size"]),
        allocated_bytes=int(info.get("actual-size", 0)),
        locked=locked,
        backing_file=str(info.get("backing-filename", "")),
        compat=str(details.get("compat", "")),
    )
