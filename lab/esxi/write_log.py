"""The log of a lab's writer. With it a test can compute the content that a migrated disk must
have."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Literal

Kind = Literal["data", "zero_data", "write_zeroes", "trim"]

FINAL_MARK = b"last writes before shutdown "
"""First bytes of each data write of the batch that follows SIGTERM."""


@dataclass(frozen=True)
class WriteEntry:
    """One completed write. ``digest`` is of the bytes that the range held right afterwards.

    ``final`` marks the batch written after the guest was asked to shut down; ``at`` is Unix time
    in seconds at completion.
    """

    seq: int
    seed: int
    export: str
    offset: int
    length: int
    kind: Kind
    digest: str
    final: bool
    at: float

    def content(self) -> bytes:
        """The bytes written; a trimmed range reads as zeroes."""
        return content(self.seed, self.seq, self.length, self.kind, final=self.final)

    def as_line(self) -> str:
        """The log's line, without its end."""
        return json.dumps(asdict(self))


def content(seed: int, seq: int, length: int, kind: Kind, *, final: bool) -> bytes:
    """The data of write number ``seq``: incompressible, and different for each number."""
    if kind != "data":
        return bytes(length)
    stream = hashlib.shake_256(f"{seed}:{seq}".encode()).digest(length)
    return (FINAL_MARK + stream)[:length] if final else stream


def digest(data: bytes) -> str:
    """Short hexadecimal digest, as in the log."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def read_log(path: Path) -> list[WriteEntry]:
    """All complete lines. A line cut off by SIGKILL is ignored: its write was not reported."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [WriteEntry(**json.loads(line)) for line in lines]


def continue_log(path: Path) -> int:
    """Cut off a line left incomplete by SIGKILL; returns the number of the next write."""
    entries = read_log(path)
    if path.exists():
        with path.open("r+b") as stream:
            stream.truncate(stream.read().rfind(b"\n") + 1)
    return entries[-1].seq + 1 if entries else 1


def replay(entries: Iterable[WriteEntry], export: str, image: BinaryIO) -> int:
    """Apply an export's writes, in order, to a raw image; returns how many there were."""
    count = 0
    for entry in entries:
        if entry.export == export:
            image.seek(entry.offset)
            image.write(entry.content())
            count += 1
    return count
