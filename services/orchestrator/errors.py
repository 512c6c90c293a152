"""The orchestrator's error tree."""

from dataclasses import dataclass
from enum import StrEnum

from services.config import Problem
from services.kit.failure import Code, ServiceError

__all__ = [
    "AmbiguousMigration",
    "Candidate",
    "ChunkMapLost",
    "CloudstackJobFailed",
    "ControlNotAllowed",
    "ConversionCancelled",
    "DatabaseUnusable",
    "InvalidField",
    "MigrationExists",
    "MigrationNotFound",
    "SnapshotLost",
    "SourcePoweredOn",
    "SpecInvalid",
    "SpecMismatch",
    "TransferCancelled",
    "VmNotMigratable",
]


class MigrationNotFound(ServiceError):
    """No migration matches the selector."""

    code = Code.NOT_FOUND
    reason = "MIGRATION_NOT_FOUND"
    hint = "list the migrations with `v2c status`; submit the machine's spec with `v2c run` first"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A migration that matches an ambiguous selector, with its `Stage` and `State`."""

    id: str
    vm_name: str
    vm_moref: str
    stage: StrEnum
    state: StrEnum


class AmbiguousMigration(ServiceError):
    """Several migrations match the selector."""

    code = Code.FAILED_PRECONDITION
    reason = "AMBIGUOUS_MIGRATION"
    hint = "name the machine by its moref (--vm-id) instead of its name"

    def __init__(self, wanted: str, candidates: tuple[Candidate, ...]) -> None:
        listed = ", ".join(f"{each.vm_name} ({each.vm_moref or each.id})" for each in candidates)
        super().__init__(f"{wanted} matches several migrations: {listed}")
        self.wanted = wanted
        self.candidates = candidates


class DatabaseUnusable(ServiceError):
    """The orchestrator's database cannot be opened."""

    code = Code.FAILED_PRECONDITION
    reason = "DATABASE_UNUSABLE"
    hint = (
        "check database.url: sqlite:////path/file.sqlite3, or "
        "postgresql+psycopg://user:password@host/database"
    )


class MigrationExists(ServiceError):
    """The machine already has a migration."""

    code = Code.ALREADY_EXISTS
    reason = "MIGRATION_EXISTS"
    hint = "use the migration that exists, or cancel it first"


class ControlNotAllowed(ServiceError):
    """The control that an operator requested is not possible at this stage."""

    code = Code.FAILED_PRECONDITION
    reason = "CONTROL_NOT_ALLOWED"
    hint = "see where the migration is with `v2c status`"


class SpecInvalid(ServiceError):
    """The spec has mistakes; the message lists them all."""

    code = Code.INVALID_ARGUMENT
    reason = "SPEC_INVALID"
    hint = "correct the lines named and submit the spec again"

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class SpecMismatch(ServiceError):
    """The spec does not match the machine that was found in vCenter."""

    code = Code.FAILED_PRECONDITION
    reason = "SPEC_MISMATCH"
    hint = "correct the spec, submit it again and retry"


class VmNotMigratable(ServiceError):
    """The machine has a disk, device or setting that cannot be migrated."""

    code = Code.FAILED_PRECONDITION
    reason = "VM_NOT_MIGRATABLE"
    hint = "remove the disk, device or setting that the message names, then retry"


class SnapshotLost(ServiceError):
    """The snapshot that a pass was reading is gone; the pass continues with a new one."""

    code = Code.ABORTED
    reason = "SNAPSHOT_LOST"
    retryable = True
    hint = "make sure that no backup job and no person removes snapshots named v2c-…"


class ChunkMapLost(ServiceError):
    """A disk's chunk map cannot be used; the pass continues by comparing the whole disk."""

    code = Code.ABORTED
    reason = "CHUNK_MAP_LOST"
    retryable = True
    hint = "no action is needed; the storage host's log may show what damaged the map"


class SourcePoweredOn(ServiceError):
    """The source was started after its shutdown; the target may lack what it wrote since."""

    code = Code.FAILED_PRECONDITION
    reason = "SOURCE_POWERED_ON"
    hint = (
        "find out who started it; in final_sync and verifying, retry repeats shutdown and sync; "
        "in a later stage, roll back and migrate the machine again"
    )


class TransferCancelled(ServiceError):
    """A transfer that the migration needs was cancelled on the storage host."""

    code = Code.ABORTED
    reason = "TRANSFER_CANCELLED"
    hint = "retry the migration; what was copied is kept"


class ConversionCancelled(ServiceError):
    """The conversion was cancelled on the storage host; it has not changed the images."""

    code = Code.ABORTED
    reason = "CONVERSION_CANCELLED"
    hint = "retry the migration; the conversion starts again from the synced images"


class CloudstackJobFailed(ServiceError):
    """A CloudStack job failed and CloudStack gave no reason."""

    code = Code.ABORTED
    reason = "CLOUDSTACK_JOB_FAILED"
    hint = "look for the job in the management server's log, then retry"


class InvalidField(ServiceError):
    """A field of the request has an invalid value."""

    code = Code.INVALID_ARGUMENT
    reason = "INVALID_FIELD"
    hint = "use a value that the field's comment in orchestrator.proto allows"
