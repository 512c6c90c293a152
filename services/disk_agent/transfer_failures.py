"""Why a transfer failed: the failures of the engine and of the processes around it.

A worker process reports its failure to the agent as JSON (`services.kit.failure.Failure.to_wire`).
"""

import errno
from typing import Self

from services.kit.failure import Code, ServiceError


class TransferFailure(ServiceError):
    """A transfer ended without success, for a cause that has no reason of its own."""

    code = Code.ABORTED
    reason = "TRANSFER_FAILED"
    hint = "look at the disk agent's log for this transfer"


class SourceFailed(TransferFailure):
    """A read from the source failed and is not repeated; the connection still works."""

    code = Code.UNAVAILABLE
    reason = "SOURCE_FAILED"
    retryable = True
    hint = (
        "look at the source's last messages; on the same snapshot a retry resumes at the last "
        "checkpoint"
    )


class SourceLost(SourceFailed):
    """The connection to the source broke; a retry opens it again."""

    reason = "SOURCE_LOST"


class SourceUnusable(TransferFailure):
    """The source cannot be opened as configured: its library, address or credentials are wrong."""

    code = Code.FAILED_PRECONDITION
    reason = "SOURCE_UNUSABLE"
    hint = "check the address, credentials and library of the source, then retry"


class SourceSizeMismatch(SourceUnusable):
    """The source does not have the capacity that the transfer was started with."""

    reason = "SOURCE_SIZE_MISMATCH"
    hint = "read the disk's capacity again: it may have been resized"


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
    """The configured directory has no libvixDiskLib. ``vddk_path`` names the directory."""

    reason = "VDDK_NOT_FOUND"
    hint = "unpack the VDDK on the disk agent's host and set migration.vddk_path to it"


class TargetFailed(TransferFailure):
    """A request to the target failed, or the connection to it is lost."""

    code = Code.UNAVAILABLE
    reason = "TARGET_FAILED"
    retryable = True
    hint = "check the storage below the target image; the chunk map is intact, a retry resumes"


class TargetFull(TransferFailure):
    """The file system below the target has no space left."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "TARGET_FULL"
    hint = "make space on the storage pool, then retry: the copy resumes where it stopped"


class TargetUnusable(TransferFailure):
    """The target cannot be opened, or does not fit the disk."""

    code = Code.FAILED_PRECONDITION
    reason = "TARGET_UNUSABLE"
    hint = "check that the image is there, readable and writable for the disk agent, then retry"


class TargetSizeMismatch(TargetUnusable):
    """The image does not have the capacity of the disk."""

    reason = "TARGET_SIZE_MISMATCH"
    hint = "resize the image to the disk's capacity"


class TargetCorrupt(TargetUnusable):
    """The tables of the QCOW2 image are damaged in a way that is not repaired."""

    code = Code.DATA_LOSS
    reason = "TARGET_CORRUPT"
    hint = "cancel the migration and start it anew, which makes a new image"


class TargetUnchecked(TargetUnusable):
    """An image that was not closed properly cannot be checked, so nothing is written to it."""

    code = Code.UNAVAILABLE
    reason = "TARGET_UNCHECKED"
    retryable = True
    hint = "check that the storage below the image is mounted, writable and free of errors"


class TargetMissing(TargetUnusable):
    """The image that a transfer writes to or verifies does not exist."""

    reason = "TARGET_MISSING"
    hint = "put the file back and retry, or cancel the migration and start it anew"


class TargetLocked(TargetUnusable):
    """Another process has the image open."""

    reason = "TARGET_LOCKED"
    retryable = True
    hint = "find the process that has the image open (fuser -v) and end it"


class TargetReplaced(TargetUnusable):
    """The image is not the one that its chunk map describes, or it was moved or removed."""

    reason = "TARGET_REPLACED"
    hint = (
        "put the image back and retry; to give up the copy, move the file at its path away, cancel "
        "the migration and start it anew"
    )


class TargetLostData(TargetUnusable):
    """Chunks that a pass had written were not on the target at its end."""

    code = Code.DATA_LOSS
    reason = "TARGET_LOST_DATA"
    hint = "a retry copies them again; if the error repeats, look at the storage below the image"


class MapUnusable(TransferFailure):
    """The chunk map is missing or corrupt, or belongs to another disk or pass."""

    code = Code.FAILED_PRECONDITION
    reason = "CHUNK_MAP_UNUSABLE"
    hint = (
        "in a migration's delta pass do nothing: it compares the whole disk instead; otherwise "
        "cancel the migration and start it anew, or run a transfer in mode RESYNC over gRPC, which "
        "makes a new map"
    )


class DiskShrank(MapUnusable):
    """The disk is smaller than when it was copied before."""

    reason = "DISK_SHRANK"
    hint = "cancel the migration and start it anew, which makes a new image"


class ContentMismatch(TransferFailure):
    """Verification found chunks whose content differs from what was read from the source."""

    code = Code.DATA_LOSS
    reason = "CONTENT_MISMATCH"
    hint = (
        "retry the migration: chunks that differ are read from the source again, written and read "
        "back; if they still differ, check the storage below the image and the host's memory"
    )


class TransferCancelled(TransferFailure):
    """The transfer was ended by CancelTransfer."""

    code = Code.CANCELLED
    reason = "TRANSFER_CANCELLED"
    hint = "start a transfer with another id: it resumes from the chunk map"


class HostFailed(TransferFailure):
    """The operating system of the disk agent's host refused a file, a process or memory."""

    code = Code.UNAVAILABLE
    reason = "HOST_FAILED"
    retryable = True
    hint = (
        "look at the host's limits, rights and file systems; a retry resumes at the last checkpoint"
    )

    @classmethod
    def of(cls, error: OSError) -> Self:
        """The failure for an OSError: the kernel's message, with the file's name if it has one."""
        about = f" {error.filename!r}" if error.filename else ""
        name = errno.errorcode.get(error.errno or 0, "OSError")
        return cls(
            f"the disk agent's host failed{about}: {error.strerror or error}",
            metadata={"errno": name},
        )


class WorkerDied(TransferFailure):
    """The worker process ended without reporting a result."""

    code = Code.INTERNAL
    reason = "WORKER_DIED"
    retryable = True
    hint = "a retry resumes at the last checkpoint; look for the out-of-memory killer if it repeats"


class AgentStopped(TransferFailure):
    """The disk agent was stopped while the transfer was running."""

    code = Code.UNAVAILABLE
    reason = "AGENT_STOPPED"
    retryable = True
    hint = "start the transfer again once the agent runs: it resumes at the last checkpoint"


class AgentRestarted(TransferFailure):
    """The disk agent ended, without stopping the transfer, and was started again."""

    code = Code.UNAVAILABLE
    reason = "AGENT_RESTARTED"
    retryable = True
    hint = "start the transfer again: it resumes at the last checkpoint"
