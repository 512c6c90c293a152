"""The proof: images against the source's disks, block by block, and what the guests wrote."""

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
    """One disk: bytes compared, and where the first differing block starts (None: nowhere)."""

    compared_bytes: int
    differs_at: int | None

    @property
    def identical(self) -> bool:
        """True when every byte was compared and none differed."""
        return self.differs_at is None


@dataclass(frozen=True)
class LastWrites:
    """Writes that the guest made after it was asked to shut down, and how many the image holds."""

    logged: int
    found: int


@contextmanager
def source_disk(socket: Path, export: str) -> Iterator[nbd.NBD]:
    """The live disk of a VM that is off."""
    handle = nbd.NBD()
    handle.set_export_name(export)
    handle.connect_unix(str(socket))
    try:
        yield handle
    finally:
        handle.shutdown()


@contextmanager
def image(path: Path) -> Iterator[nbd.NBD]:
    """A QCOW2's content; it may be open for reading elsewhere."""
    handle = nbd.NBD()
    # force-share: CloudStack's side, or a conversion's overlay, may hold the image open.
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
    """Look for the guest's last writes in the image; one that a later one touches does not count.

    A digest cannot show what a later write left of an earlier one.
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
