"""Why a transfer ended: the failures of the engine and of the processes around it.

These cross from the worker process to the agent as JSON (`to_wire`, `from_wire`), so they carry
values only and know nothing of gRPC.
"""

import errno
from collections.abc import Mapping
from typing import Self

from services.kit.failure import Code, Failure, ServiceError


class TransferFailure(ServiceError):
    """An expected end of a transfer that is not success."""

    code = Code.ABORTED
    reason = "TRANSFER_FAILED"

    def to_wire(self) -> dict[str, object]:
        """The failure as a JSON object."""
        return self.failure.to_wire()


class SourceFailed(TransferFailure):
    """The source answers, but refused a read for good."""

    reason = "SOURCE_FAILED"
    retryable = True
    hint = "look at the source's last messages; on the same snapshot a retry goes on at the chunk"


class SourceLost(SourceFailed):
    """The connection to the source broke: it may be opened again."""

    reason = "SOURCE_LOST"


class SourceUnusable(TransferFailure):
    """The source cannot be opened as configured (missing library, credentials, wrong size)."""

    reason = "SOURCE_UNUSABLE"


class NbdkitMissing(SourceUnusable):
    """nbdkit, which reads VMware's disks, is not installed on the disk agent's host."""

    reason = "NBDKIT_MISSING"
    hint = "install the packages nbdkit and nbdkit-plugin-python"


class NbdkitPluginMissing(SourceUnusable):
    """The installed nbdkit has neither its own vddk plugin nor the Python plugin."""

    reason = "NBDKIT_PLUGIN_MISSING"
    hint = "install the package nbdkit-plugin-python"


class NbdkitFilterMissing(SourceUnusable):
    """The installed nbdkit lacks a filter that this transfer needs."""

    reason = "NBDKIT_FILTER_MISSING"
    hint = (
        "install the package that has it, nbdkit on Debian and Ubuntu, nbdkit-basic-filters on EL, "
        "or set disk.chunk_mb to 2 or less"
    )


class VddkNotConfigured(SourceUnusable):
    """No directory of VMware's VDDK is configured, and the source needs it."""

    reason = "VDDK_NOT_CONFIGURED"
    hint = "set migration.vddk_path to the unpacked vmware-vix-disklib-distrib directory"


class VddkNotFound(SourceUnusable):
    """The configured directory holds no libvixDiskLib. ``vddk_path`` names it."""

    reason = "VDDK_NOT_FOUND"
    hint = "unpack the VDDK on the disk agent's host and set migration.vddk_path to it"


class TargetFailed(TransferFailure):
    """The target refused a write or a flush, or its connection is lost."""

    reason = "TARGET_FAILED"
    retryable = True
    hint = "check the storage below the target image; the chunk map is intact, a retry resumes"


class TargetFull(TransferFailure):
    """The file system below the target has no space left."""

    reason = "TARGET_FULL"
    hint = "make space on the storage pool, then retry: the copy resumes where it stopped"


class TargetUnusable(TransferFailure):
    """The target cannot be opened, or does not fit the disk."""

    reason = "TARGET_UNUSABLE"


class TargetMissing(TargetUnusable):
    """The image that a transfer writes to or verifies is not there."""

    reason = "TARGET_MISSING"
    hint = "put the file back and retry, or cancel the migration and start it anew"


class TargetLocked(TargetUnusable):
    """Another process has the image open."""

    reason = "TARGET_LOCKED"
    retryable = True
    hint = "find the process that has the image open (fuser -v) and end it"


class TargetReplaced(TargetUnusable):
    """The image is not the one that its chunk map describes, or not in its place any more."""

    reason = "TARGET_REPLACED"
    hint = (
        "put the image back and retry; if it is to be given up, move it away, and cancel the "
        "migration and start it anew"
    )


class TargetLostData(TargetUnusable):
    """Chunks that a pass had written were not on the target at its end."""

    reason = "TARGET_LOST_DATA"
    hint = "retry, which copies them again; if it repeats, look at the storage below the image"


class MapUnusable(TransferFailure):
    """The chunk map is corrupt or belongs to other content than the order says."""

    reason = "CHUNK_MAP_UNUSABLE"
    hint = (
        "a migration's delta pass compares the whole disk instead, by itself; elsewhere cancel the "
        "migration and start it anew, or run a transfer in mode RESYNC over gRPC, which makes one"
    )


class ContentMismatch(TransferFailure):
    """Verification found chunks whose content differs from what was read from the source."""

    reason = "CONTENT_MISMATCH"
    hint = (
        "retry the migration: what differs is read from the source again, written and read back; a "
        "difference that stays points at the storage below the image or the host's memory"
    )


class TransferCancelled(TransferFailure):
    """The transfer ended because somebody asked for it."""

    reason = "TRANSFER_CANCELLED"


class HostFailed(TransferFailure):
    """The disk agent's host refused the worker a file, a process or memory."""

    reason = "HOST_FAILED"
    retryable = True
    hint = (
        "look at the host's limits, rights and file systems; a retry resumes at the last checkpoint"
    )

    @classmethod
    def of(cls, error: OSError) -> Self:
        """What the kernel said, with the file it was about if there is one."""
        about = f" {error.filename!r}" if error.filename else ""
        name = errno.errorcode.get(error.errno or 0, "OSError")
        return cls(
            f"the disk agent's host failed{about}: {error.strerror or error}",
            metadata={"errno": name},
        )


class WorkerDied(TransferFailure):
    """The worker process ended without saying why."""

    reason = "WORKER_DIED"
    retryable = True
    hint = "a retry resumes at the last checkpoint; look for the out-of-memory killer if it repeats"


class RemoteFailure(TransferFailure):
    """A failure that came as JSON from a worker process or from a state file."""

    def __init__(self, failure: Failure) -> None:
        self._hold(failure)

    @classmethod
    def from_wire(cls, wire: Mapping[str, object]) -> Self:
        """Rebuild a failure from `to_wire`'s object; raises ValueError when a key is missing."""
        return cls(Failure.from_wire(wire))
