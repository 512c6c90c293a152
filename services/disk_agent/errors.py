"""The disk agent's error tree: refusals of calls about pools, images and conversions.

Why a conversion that had started failed is in `conversions.failures`; transfers have their own in
`transfers.errors` and `failures`. `metadata` holds the values a program needs, as text.
"""

from services.kit.failure import Code, ServiceError


class ToolMissing(ServiceError):
    """A program this agent needs is not installed. ``tool`` names it."""

    code = Code.FAILED_PRECONDITION
    reason = "TOOL_MISSING"
    hint = "install the program on the disk agent's host"


class ToolFailed(ServiceError):
    """A program ended with an unexpected error: ``tool`` is its name, ``detail`` its message."""

    code = Code.INTERNAL
    reason = "TOOL_FAILED"
    hint = "look at the program's message, and at the storage below the pool"


class ToolTimeout(ServiceError):
    """A program did not end in time: usually storage that does not answer."""

    code = Code.DEADLINE_EXCEEDED
    reason = "TOOL_TIMEOUT"
    retryable = True
    hint = "check that the storage below the pool answers (NFS server, network), then retry"


class PoolInvalid(ServiceError):
    """The pool's description cannot be used as it is. ``field`` names what is wrong."""

    code = Code.INVALID_ARGUMENT
    reason = "POOL_INVALID"
    hint = "correct the field that the message names, in CloudStack's pool or in the call"


class PoolNotFound(ServiceError):
    """No pool with this id, or with a directory above this path, was made reachable here."""

    code = Code.NOT_FOUND
    reason = "POOL_NOT_FOUND"
    hint = "call EnsurePool first"


class PoolExists(ServiceError):
    """The id is taken by a pool with another source or path."""

    code = Code.ALREADY_EXISTS
    reason = "POOL_EXISTS"
    hint = "release the pool first if it really moved"


class PoolPathTaken(ServiceError):
    """Something else is mounted at the pool's path. ``mounted`` names it."""

    code = Code.FAILED_PRECONDITION
    reason = "POOL_PATH_TAKEN"
    hint = "unmount it, or give the pool another path"


class PoolMissing(ServiceError):
    """The pool's directory is not there, is no directory, or its mount is gone."""

    code = Code.FAILED_PRECONDITION
    reason = "POOL_MISSING"
    hint = "run the disk agent on a host that has the pool, or mount it there"


class PoolReadOnly(ServiceError):
    """The pool can be read but not written."""

    code = Code.FAILED_PRECONDITION
    reason = "POOL_READ_ONLY"
    hint = "export and mount the pool for writing, with no_root_squash for this host"


class PoolMountFailed(ServiceError):
    """mount refused or timed out. ``detail`` is its message."""

    code = Code.UNAVAILABLE
    reason = "POOL_MOUNT_FAILED"
    retryable = True
    hint = "check that this host may mount the export: showmount -e SERVER, firewall, export list"


class PoolBusy(ServiceError):
    """The pool cannot be unmounted while files on it are open or work on it is queued."""

    code = Code.FAILED_PRECONDITION
    reason = "POOL_BUSY"
    retryable = True
    hint = "wait for transfers and conversions on this pool to end, then release it again"


class PoolFull(ServiceError):
    """Not enough space. ``needed_bytes``, ``free_bytes`` and ``promised_bytes`` say how much."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "POOL_FULL"
    hint = "make space on the storage pool, or choose another one for this disk"


class ImageInvalid(ServiceError):
    """A name or a size that no image can have. ``field`` names it."""

    code = Code.INVALID_ARGUMENT
    reason = "IMAGE_INVALID"
    hint = "correct the name or the size that the message names"


class ImageNotFound(ServiceError):
    """There is no such file."""

    code = Code.NOT_FOUND
    reason = "IMAGE_NOT_FOUND"
    hint = "create the image first, or put the file back where it was"


class ImageExists(ServiceError):
    """A file of this name is there, and it is not the empty image that was asked for."""

    code = Code.ALREADY_EXISTS
    reason = "IMAGE_EXISTS"
    hint = "delete it if it is left over from an earlier migration; it may belong to another VM"


class ImageUnusable(ServiceError):
    """The file is no QCOW2 image CloudStack would take, or it is damaged."""

    code = Code.FAILED_PRECONDITION
    reason = "IMAGE_UNUSABLE"
    hint = "delete it and copy the disk again"


class ImageLocked(ServiceError):
    """Another process has the image open for writing."""

    code = Code.FAILED_PRECONDITION
    reason = "IMAGE_LOCKED"
    retryable = True
    hint = "find who has it open (fuser FILE; a VM started from it?) and end that first"


class ImageShrinkRefused(ServiceError):
    """The new size is below the present one."""

    code = Code.FAILED_PRECONDITION
    reason = "IMAGE_SHRINK_REFUSED"
    hint = "a disk is never made smaller: create a new image instead"


class ConversionInvalid(ServiceError):
    """The request is not valid, whatever state the agent is in. ``field`` names what is wrong."""

    code = Code.INVALID_ARGUMENT
    reason = "CONVERSION_INVALID"
    hint = "correct what the message names, then start it again"


class ConversionNotFound(ServiceError):
    """No conversion has this id."""

    code = Code.NOT_FOUND
    reason = "CONVERSION_NOT_FOUND"
    hint = "start it; conversions that ended may have been deleted"


class ConversionExists(ServiceError):
    """The id is taken by a conversion with other parameters."""

    code = Code.ALREADY_EXISTS
    reason = "CONVERSION_EXISTS"
    hint = "choose another id, or start it with the parameters it was first started with"


class ConversionEnded(ServiceError):
    """A cancelled conversion is not started again."""

    code = Code.FAILED_PRECONDITION
    reason = "CONVERSION_ENDED"
    hint = "choose another id: a cancelled conversion left the image as it was"


class ConversionBusy(ServiceError):
    """Another conversion is at work on one of the images, or has a commit to finish."""

    code = Code.ABORTED
    reason = "CONVERSION_BUSY"
    retryable = True
    hint = "wait for the other conversion; start one again whose commit was interrupted"


class StateDamaged(ServiceError):
    """A state file of this agent cannot be understood. ``path`` names it."""

    code = Code.DATA_LOSS
    reason = "STATE_DAMAGED"
    hint = "look at the file; move it away to continue without it"


class StaleEpoch(ServiceError):
    """The command has an older epoch than one that the image has seen: that is a newer attempt."""

    code = Code.FAILED_PRECONDITION
    reason = "STALE_EPOCH"
    hint = "a newer attempt or another orchestrator continues this migration; let this one end"
