"""The spec of the expert commands: one disk of one snapshot, and the image it goes to."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from cli.errors import CommandError
from services.config import Secret
from services.config.document import parse_document, read_text
from services.config.fields import AbsolutePath, Section, ZeroIsUnset, fault
from services.config.secret import secret_field
from services.config.validation import validate

__all__ = ["BaseCopySpec", "DeltaSyncSpec", "ExpertSpec", "VddkSpec", "load_expert_spec"]

# VDDK reads whole sectors, and changed areas are made of them.
_SECTOR_BYTES = 512


# Such names end up on command lines, where no NUL can be.
Name = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]+$")]


class VddkSpec(Section):
    """Where the disk is read from."""

    libdir: AbsolutePath
    server: Name
    user: Name
    vm_moref: Name
    password: Annotated[Secret, secret_field("vddk.password")] = Secret(
        "env:VC_PASSWORD", "vddk.password"
    )
    # VDDK wants the SHA-1 fingerprint of the server's certificate.
    thumbprint: str = ""
    port: int = Field(default=443, ge=1, le=65535)


class _Disk(Section):
    snapshot_moref: Name
    disk_path: Name
    target_qcow2: AbsolutePath
    disk_size_bytes: int = Field(gt=0, multiple_of=512)


class BaseCopySpec(_Disk):
    """A full copy."""

    # One connection reads with many requests in flight, where the reference tool has threads with a
    # connection each (docs/adr/0005): at least as many as there would be readers.
    readers: Annotated[int, ZeroIsUnset, Field(ge=1, le=64)] = 1
    queue_depth: Annotated[int, ZeroIsUnset, Field(ge=1, le=64)] = 16
    # The size of a chunk lies between these; it is 1 MiB where that is allowed: measured best.
    min_chunk_mb: Annotated[int, ZeroIsUnset, Field(ge=1, le=32)] = 1
    max_chunk_mb: Annotated[int, ZeroIsUnset, Field(ge=1, le=32)] = 32

    @model_validator(mode="after")
    def _has_a_chunk_size(self) -> Self:
        if self.chunk_mb > self.max_chunk_mb:
            raise fault(
                f"no power of two lies between min_chunk_mb ({self.min_chunk_mb}) and "
                f"max_chunk_mb ({self.max_chunk_mb})",
                "Leave both out: 1 MiB is best.",
                at=("max_chunk_mb",),
            )
        return self

    @property
    def requests_in_flight(self) -> int:
        """How many chunks are on their way at the same time."""
        return max(self.queue_depth, self.readers)

    @property
    def chunk_mb(self) -> int:
        """The smallest power of two that is allowed."""
        return 1 << (self.min_chunk_mb - 1).bit_length()


class DeltaSyncSpec(_Disk):
    """A copy of the ranges in a file: JSON, a list of {"start", "length"} in bytes."""

    ranges_file: AbsolutePath
    chunk_mb: Annotated[int, ZeroIsUnset, Field(ge=1, le=32)] = 1


class ExpertSpec(Section):
    """The whole file."""

    vddk: VddkSpec
    base_copy: BaseCopySpec | None = None
    delta_sync: DeltaSyncSpec | None = None


def load_expert_spec(path: Path) -> ExpertSpec:
    """Read an expert spec. Raises ConfigError."""
    document = parse_document(read_text(path), str(path))
    return validate(ExpertSpec, document, document.value, (), path.absolute().parent)


def ranges_from(document: Any, source: Path) -> Iterator[tuple[int, int]]:
    """Pairs of offset and length from parsed JSON. Raises CommandError."""
    hint = 'Write [{"start": 0, "length": 65536}, …], in bytes.'
    named = f"delta_sync.ranges_file: {source}"
    if not isinstance(document, list):
        raise CommandError(f"{named} is no list of ranges", hint)
    for number, item in enumerate(document, 1):
        match item:
            case {"start": start, "length": length} | [start, length]:
                pair = _bytes(start), _bytes(length)
            case _:
                raise CommandError(f"{named}: range {number} is no range", hint)
        if pair[0] is None or pair[1] is None:
            raise CommandError(
                f"{named}: range {number} is not in whole sectors of {_SECTOR_BYTES} bytes", hint
            )
        yield pair[0], pair[1]


def _bytes(value: Any) -> int | None:
    """A number as it stands, or as text; None for what names no byte at a sector's border."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,19}", value):
        value = int(value)
    # A bool is an int, and half a byte would be rounded.
    return value if type(value) is int and value % _SECTOR_BYTES == 0 else None
