"""The disks' records (names, snapshots, tracking, power), and the file they are stored in."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lab.esxi.disks.areas import ChangeId
from lab.esxi.model import EsxiError


@dataclass
class SnapshotRecord:
    """A snapshot of one disk; ``change_id`` is None when the disk was not tracked."""

    moref: str
    change_id: str | None


@dataclass
class DiskRecord:
    """One disk. Changed blocks are marked with ``generation``, which each snapshot increments.

    ``file_numbers`` is the chain of files: the first is the base (0), each snapshot adds one, the
    last is live. File i has the content of snapshot i. ``tracking_uuid``, 32 hexadecimal digits,
    changes when tracking is switched on or reset.
    """

    vm: str
    key: int
    path: str
    capacity_bytes: int
    generation: int = 1
    tracking_uuid: str | None = None
    tracked_with_snapshots: bool = False
    snapshots: list[SnapshotRecord] = field(default_factory=list)
    file_numbers: list[int] = field(default_factory=lambda: [0])

    @property
    def id(self) -> str:
        """The export name of the live disk, also used as its key in dictionaries."""
        return f"{self.vm}/{self.key}"

    @property
    def directory(self) -> str:
        """Name of the content's directory."""
        return f"{self.vm}_{self.key}"

    def has_snapshot(self, moref: str) -> bool:
        """Whether this disk is part of the snapshot."""
        return any(snapshot.moref == moref for snapshot in self.snapshots)

    def snapshot(self, moref: str) -> SnapshotRecord:
        """Raises EsxiError (``not_found``)."""
        return self.snapshots[self._position(moref)]

    def snapshot_path(self, moref: str) -> str:
        """The file that holds the snapshot's state."""
        return self._file(self.file_numbers[self._position(moref)])

    def current_path(self) -> str:
        """The file the guest writes to."""
        return self._file(self.file_numbers[-1])

    def file_paths(self) -> list[str]:
        """Every file of the chain, the base first."""
        return [self._file(number) for number in self.file_numbers]

    def push_snapshot(self, moref: str) -> None:
        """Add a snapshot: end the generation, which gets a changeId if tracked, and add a file."""
        uuid = self.tracking_uuid
        change_id = None if uuid is None else str(ChangeId(uuid, self.generation))
        self.snapshots.append(SnapshotRecord(moref, change_id))
        self.file_numbers.append(max(self.file_numbers) + 1)
        self.generation += 1

    def drop_snapshot(self, moref: str) -> None:
        """Remove a snapshot: the next file is committed into the snapshot's and removed."""
        position = self._position(moref)
        del self.snapshots[position]
        del self.file_numbers[position + 1]

    def _position(self, moref: str) -> int:
        for position, snapshot in enumerate(self.snapshots):
            if snapshot.moref == moref:
                return position
        raise EsxiError("not_found", f"no snapshot {moref} of disk {self.id}")

    def _file(self, number: int) -> str:
        return self.path if number == 0 else f"{self.path.removesuffix('.vmdk')}-{number:06}.vmdk"


def load_catalog(path: Path) -> tuple[list[DiskRecord], set[str]]:
    """Records and the morefs of powered-off VMs; nothing when the file does not exist."""
    if not path.exists():
        return [], set()
    content = json.loads(path.read_text())
    records = [
        DiskRecord(**{**disk, "snapshots": [SnapshotRecord(**each) for each in disk["snapshots"]]})
        for disk in content["disks"]
    ]
    return records, set(content["powered_off"])


def save_catalog(path: Path, records: list[DiskRecord], powered_off: set[str]) -> None:
    """Replace the file atomically."""
    content = {
        "disks": [asdict(record) for record in records],
        "powered_off": sorted(powered_off),
    }
    temporary = path.with_suffix(".new")
    with temporary.open("w") as stream:
        json.dump(content, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
