"""The proof: compares images with the source's disks, and looks for the guests' last writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbd

from lab.esxi.write_log import WriteEntry, digest, read_log

_BLOCK = 1024 * 1024


@dataclass(frozen=True)
class Comparison:
    """One disk: bytes compared, and the offset of the first block that differs, or None."""

    compared_bytes: int
    differs_at: int | None

    @property
    def identical(self) -> bool:
        """True when every byte was compared and none differed."""
        return self.differs_at is None


@dataclass(frozen=True)
class LastWrites:
    """The number of writes after the guest was asked to shut down, and of those in the image."""

    logged: int
    found: int


@contextmanager
def source_disk(socket: Path, export: str) -> Iterator[nbd.NBD]:
    """Open the live disk of a VM that is off."""
    handle = nbd.NBD()
    handle.set_export_name(export)
    handle.connect_unix(str(socket))
    try:
        yield handle
    finally:
        handle.shutdown()


@contextmanager
def image(path: Path) -> Iterator[nbd.NBD]:
    """Open a QCOW2 file for reading; other processes may have it open."""
    handle = nbd.NBD()
    # force-share, because CloudStack or a conversion's overlay may have the image open.
    options = f"driver=qcow2,file.driver=file,file.filename={str(path).replace(',', ',,')}"
    handle.connect_systemd_socket_activation(
        ["qemu-nbd", "--read-only", "--image-opts", f"{options},force-share=on"]
    )
    try:
        yield handle
    finally:
        handle.shutdown()


def compare(source: nbd.NBD, target: nbd.NBD) -> Comparison:
    """Read both from end to end."""
    size = source.get_size()
    if target.get_size() != size:
        return Comparison(0, min(size, target.get_size()))
    for offset in range(0, size, _BLOCK):
        length = min(_BLOCK, size - offset)
        if source.pread(length, offset) != target.pread(length, offset):
            return Comparison(offset, offset)
    return Comparison(size, None)


def last_writes(log: Path, export: str, target: nbd.NBD) -> LastWrites:
    """Look for the guest's last writes in the image.

    A write that overlaps a later one is not counted, because its digest no longer matches.
    """
    final = [entry for entry in read_log(log) if entry.export == export and entry.final]
    intact = [
        entry
        for index, entry in enumerate(final)
        if not any(_touches(later, entry) for later in final[index + 1 :])
    ]
    found = sum(
        digest(bytes(target.pread(entry.length, entry.offset))) == entry.digest for entry in intact
    )
    return LastWrites(len(intact), found)


def _touches(one: WriteEntry, other: WriteEntry) -> bool:
    return one.offset < other.offset + other.length and other.offset < one.offset + one.length
