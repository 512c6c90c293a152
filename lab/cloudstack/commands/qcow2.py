"""The checks that CloudStack's KVM agent makes of a QCOW2 file before its import.

The header's layout is QEMU's ``docs/interop/qcow2.txt``; the rules are those of
CloudStack's ``KVMPhysicalDisk.checkQcow2File`` and ``LibvirtCheckVolumeCommandWrapper``.
"""

from __future__ import annotations

import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MAGIC: Final = b"QFI\xfb"
# magic, version, backing offset and size, cluster bits, size, crypt method, L1 size,
# L1 offset, refcount offset and clusters, snapshots count and offset
_V2: Final = struct.Struct(">4sIQIIQIIQQIIQ")
_INCOMPATIBLE: Final = struct.Struct(">Q")
_DIRTY, _CORRUPT, _EXTERNAL_DATA, _COMPRESSION = 1, 2, 4, 8
_KNOWN_INCOMPATIBLE: Final = _DIRTY | _CORRUPT | _EXTERNAL_DATA | _COMPRESSION


@dataclass(frozen=True)
class Inspection:
    """The fields of a QCOW2 file that the importer checks; sizes in bytes."""

    virtual_size_bytes: int
    file_size_bytes: int
    has_backing_file: bool
    has_external_data_file: bool
    unknown_features: bool
    encrypted: bool
    corrupt: bool
    locked: bool

    @property
    def importable(self) -> bool:
        """Whether ``checkQcow2File`` accepts the header."""
        return not (self.has_backing_file or self.has_external_data_file or self.unknown_features)


class NotQcow2Error(Exception):
    """The file is missing, unreadable or has no QCOW2 header."""


def inspect(path: Path) -> Inspection:
    """Read the header of ``path`` and check whether it is locked.

    Raises:
        NotQcow2Error: there is no QCOW2 image at ``path``.
    """
    try:
        with path.open("rb") as image:
            header = image.read(_V2.size + _INCOMPATIBLE.size)
        file_size_bytes = path.stat().st_blocks * 512
    except OSError as error:
        raise NotQcow2Error(f"{path.name}: {error.strerror}") from error
    if len(header) < _V2.size or header[:4] != _MAGIC:
        raise NotQcow2Error(f"{path.name}: not a QCOW2 image")
    fields = _V2.unpack_from(header)
    version, backing_offset, size, crypt_method = fields[1], fields[2], fields[5], fields[6]
    features = 0
    if version >= 3 and len(header) >= _V2.size + _INCOMPATIBLE.size:
        (features,) = _INCOMPATIBLE.unpack_from(header, _V2.size)
    return Inspection(
        virtual_size_bytes=size,
        file_size_bytes=file_size_bytes,
        has_backing_file=backing_offset != 0,
        has_external_data_file=bool(features & _EXTERNAL_DATA),
        unknown_features=bool(features & ~_KNOWN_INCOMPATIBLE),
        encrypted=crypt_method != 0,
        corrupt=bool(features & _CORRUPT),
        locked=_is_locked(path),
    )


def _is_locked(path: Path) -> bool:
    """Whether another process writes the image.

    ``qemu-img info`` without ``-U`` takes a shared lock, which fails while there is a
    writer. The real agent does the same, and treats every failure of it as a lock.
    """
    probe = subprocess.run(
        ["qemu-img", "info", "--output=json", str(path)],
        capture_output=True,
        check=False,
        timeout=30,
    )
    return probe.returncode != 0
