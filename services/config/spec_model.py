"""The model of a spec file: which VMs to migrate, how, and to where."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from services.config.config_model import CloudStackDefaults
from services.config.document import Document, FieldPath
from services.config.fields import (
    Boolean,
    LocalTime,
    Quiesce,
    ResourceId,
    Section,
    ShutdownMode,
    ZeroIsUnset,
    fault,
)
from services.config.problems import Problem

__all__ = [
    "CloudStackTarget",
    "DiskTarget",
    "MigrationSpec",
    "NicMapping",
    "Target",
    "VmRef",
    "VmSpec",
]


class VmRef(Section):
    """Which VM. Names repeat in a vCenter: `moref` (``vm-1042``) decides between them."""

    name: str
    moref: str | None = None


class MigrationSpec(Section):
    """How this VM is migrated. None means: as in config.yaml, or the built-in default."""

    # Five minutes: short enough for a small final sync, long enough to spare the datastore.
    delta_interval: Annotated[int, ZeroIsUnset, Field(ge=1, le=604800)] = 300
    finalize_at: LocalTime | None = None
    # During the last finalize_window seconds passes follow each other faster, so that the last
    # one, which is downtime, has little to copy.
    finalize_delta_interval: Annotated[int, ZeroIsUnset, Field(ge=1, le=604800)] = 30
    finalize_window: Annotated[int, ZeroIsUnset, Field(ge=1, le=604800)] = 600
    finalize_settle_seconds: Annotated[int | None, ZeroIsUnset, Field(ge=0, le=3600)] = None
    # None: the disk agent's measured default.
    readers: Annotated[int | None, ZeroIsUnset, Field(ge=1, le=64)] = None
    run_virt_v2v: Boolean | None = None
    snapshot_quiesce: Quiesce | None = None
    shutdown_mode: ShutdownMode | None = None
    parallel_disks: Annotated[int | None, ZeroIsUnset, Field(ge=1, le=64)] = None
    # Off as in the reference tool: someone looks at the VM before it starts.
    start_vm_after_import: Boolean = False


class NicMapping(Section):
    """The CloudStack network of one source NIC; the source_* keys are there to be read."""

    networkid: ResourceId
    source_label: str | None = None
    source_network: str | None = None
    source_mac: str | None = None
    source_device_key: int | None = None
    source_index: int | None = None


class CloudStackTarget(CloudStackDefaults):
    """Placement of this VM; what is not given comes from cloudstack_defaults."""

    # By the NIC's VMware device key as text, "4000" for the first.
    nic_mappings: Mapping[str, NicMapping] = Field(default_factory=dict)

    @field_validator("nic_mappings", mode="after")
    @classmethod
    def _keys_are_device_keys(cls, mappings: Mapping[str, NicMapping]) -> Mapping[str, NicMapping]:
        for key, mapping in mappings.items():
            if not re.fullmatch(r"\d{1,9}", key):
                raise fault(
                    f"{key!r} is not a NIC's device key",
                    'Write it as a number, "4000" for the first NIC.',
                    at=(key,),
                )
            if mapping.source_device_key is not None and mapping.source_device_key != int(key):
                raise fault(
                    f"source_device_key {mapping.source_device_key} is not the NIC {key}",
                    "Make the two equal, or remove source_device_key.",
                    at=(key, "source_device_key"),
                )
        return mappings


class Target(Section):
    """Where the VM goes."""

    cloudstack: CloudStackTarget = CloudStackTarget()


class DiskTarget(Section):
    """Placement of one disk."""

    storageid: ResourceId | None = None
    diskofferingid: ResourceId | None = None


class VmSpec(Section):
    """One VM of a spec file."""

    vm: VmRef
    migration: MigrationSpec = MigrationSpec()
    target: Target = Target()
    # By the disk's number as text: its unit, plus 16 per SCSI bus where there are several.
    disks: Mapping[str, DiskTarget] = Field(default_factory=dict)

    _document: Document | None = PrivateAttr(default=None)
    _prefix: FieldPath = PrivateAttr(default=())
    _warnings: tuple[Problem, ...] = PrivateAttr(default=())

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What looks wrong but is not refused, such as an id that is no UUID."""
        return self._warnings

    def problem(self, path: FieldPath, message: str, *, value: str = "", hint: str = "") -> Problem:
        """A problem at `path` inside this VM, with the position in the file it came from."""
        full = (*self._prefix, *path)
        if self._document is None:
            return Problem("spec", 0, 0, ".".join(map(str, path)), value, message, hint)
        return self._document.problem(full, message, value=value, hint=hint)

    def with_origin(
        self, document: Document, prefix: FieldPath, warnings: tuple[Problem, ...]
    ) -> Self:
        """The same VM, remembering where in which file it stands."""
        copy = self.model_copy()
        copy._document, copy._prefix, copy._warnings = document, prefix, warnings
        return copy

    @model_validator(mode="before")
    @classmethod
    def _no_disks(cls, data: Any) -> Any:
        """JSON writers put ``disks: []`` where there are none."""
        if isinstance(data, dict) and data.get("disks") == []:
            return {key: value for key, value in data.items() if key != "disks"}
        return data

    @field_validator("disks", mode="after")
    @classmethod
    def _keys_are_units(cls, disks: Mapping[str, DiskTarget]) -> Mapping[str, DiskTarget]:
        for key in disks:
            if not re.fullmatch(r"\d{1,4}", key):
                raise fault(
                    f"{key!r} is not a disk's number",
                    'Write its unit ("1"); with several SCSI controllers add 16 per bus, so that '
                    'SCSI 1:0 is "16". The machine list names the number of every disk.',
                    at=(key,),
                )
        return disks
