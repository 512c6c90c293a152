"""What a transfer has to do, as a worker process gets it: JSON on its standard input.

The order is complete: a worker reads no configuration. Secrets are sent beside the order, because
orders are stored on disk.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from services.disk_agent.chunk_map.digests import XXH3_128
from services.disk_agent.worker.modes import Mode


@dataclass(frozen=True)
class VddkSpec:
    """A disk of a snapshot, read through libvixDiskLib. The password is not part of it."""

    server: str
    user: str
    thumbprint: str
    library_dir: str
    vm_moref: str
    snapshot_moref: str
    disk_path: str
    transports: str = ""
    port: int = 0


@dataclass(frozen=True)
class NbdSpec:
    """Any NBD export, by its URI."""

    uri: str


SourceSpec = VddkSpec | NbdSpec
_SOURCE_KINDS: dict[str, type[SourceSpec]] = {"vddk": VddkSpec, "nbd": NbdSpec}


@dataclass(frozen=True)
class TransferOrder:
    """One transfer, without the paths and limits that the agent adds (`WorkerOrder`)."""

    transfer_id: str
    mode: Mode
    source: SourceSpec | None
    target_path: str
    capacity_bytes: int
    disk_id: str
    snapshot_id: str
    pass_number: int
    ranges_id: str = ""
    queue_depth: int = 16
    chunk_bytes: int = 1 << 20

    def to_wire(self) -> dict[str, object]:
        """The order as a JSON object."""
        kinds = [kind for kind, spec in _SOURCE_KINDS.items() if isinstance(self.source, spec)]
        return {**asdict(self), "source_kind": kinds[0] if kinds else ""}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Self:
        """Rebuild from `to_wire`'s object; raises KeyError, TypeError or ValueError."""
        fields = dict(wire)
        kind = fields.pop("source_kind")
        source = fields.pop("source")
        spec = _SOURCE_KINDS[kind](**source) if kind else None
        fields["mode"] = Mode(fields["mode"])
        return cls(source=spec, **fields)


@dataclass(frozen=True)
class WorkerOrder:
    """A transfer with everything its worker needs on this host.

    `cache` is how qemu-nbd opens the image: "none", "writeback", or "auto" to choose by what the
    file system supports. `digest` is the algorithm for a new chunk map; an existing map keeps its
    own.
    """

    transfer: TransferOrder
    map_path: str
    ranges_path: str
    runtime_dir: str
    rate_bytes_per_second: int = 0
    checkpoint_seconds: float = 5.0
    checkpoint_bytes: int = 1 << 30
    cache: str = "auto"
    digest: str = XXH3_128

    def to_wire(self) -> dict[str, object]:
        """The order as a JSON object."""
        return {**asdict(self), "transfer": self.transfer.to_wire()}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Self:
        """Rebuild from `to_wire`'s object; raises KeyError, TypeError or ValueError."""
        fields = dict(wire)
        transfer = TransferOrder.from_wire(fields.pop("transfer"))
        return cls(transfer=transfer, **fields)
