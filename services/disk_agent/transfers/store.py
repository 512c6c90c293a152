"""The files of transfers, and of their images: chunk maps and fences."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from services.disk_agent.host.state_file import write_state
from services.disk_agent.transfers.transfer import Transfer


class TransferStore:
    """Transfers, maps, range sets and fences below one directory. Methods block."""

    def __init__(self, state_dir: Path) -> None:
        self._transfers = state_dir / "transfers"
        self._maps = state_dir / "maps"
        self._fences = state_dir / "fences"
        self.ranges_dir = state_dir / "ranges"
        self._raising = threading.Lock()
        for folder in (self._transfers, self._maps, self._fences, self.ranges_dir):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def map_path(self, target_path: str) -> Path:
        """The path of an image's chunk map; for people, it contains the image's name."""
        return self._maps / f"{_name_of(target_path)}.map"

    def save(self, transfer: Transfer) -> None:
        """Write a transfer, atomically and durably."""
        write_state(self._transfers / f"{transfer.id}.json", transfer.to_wire())

    def load(self) -> Iterator[tuple[Path, Transfer | None]]:
        """All transfers with their files; None for a file with invalid content."""
        for path in sorted(self._transfers.glob("*.json")):
            try:
                yield path, Transfer.from_wire(json.loads(path.read_text()))
            except (ValueError, KeyError, TypeError):
                yield path, None

    def delete(self, transfer: Transfer) -> None:
        """Remove a transfer's file. The chunk map stays: it belongs to the image."""
        (self._transfers / f"{transfer.id}.json").unlink(missing_ok=True)

    def forget_image(self, target_path: str) -> None:
        """Remove the chunk map, open mark and fence of an image that was deleted."""
        map_path = self.map_path(target_path)
        map_path.unlink(missing_ok=True)
        map_path.with_name(f"{map_path.name}.open").unlink(missing_ok=True)
        self._fence_path(target_path).unlink(missing_ok=True)

    def fence(self, target_path: str) -> int:
        """The highest epoch an image has seen; 0 before the first."""
        try:
            return int(self._fence_path(target_path).read_text())
        except FileNotFoundError:
            return 0

    def raise_fence(self, target_path: str, epoch: int) -> None:
        """Refuse lower epochs for this image from now on; does not lower an existing fence."""
        # A transfer and a conversion may raise the same fence at the same time.
        with self._raising:
            if epoch > self.fence(target_path):
                write_state(self._fence_path(target_path), epoch)

    def _fence_path(self, target_path: str) -> Path:
        return self._fences / _name_of(target_path)


def _name_of(target_path: str) -> str:
    digest = hashlib.sha256(target_path.encode()).hexdigest()[:16]
    shown = re.sub(r"[^A-Za-z0-9._-]", "_", Path(target_path).name)[:80]
    return f"{shown}.{digest}"
