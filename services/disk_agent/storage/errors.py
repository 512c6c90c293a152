"""Refused calls about pools and images."""

from services.kit.failure import Code, ServiceError


class PoolInvalid(ServiceError):
    """A field of the pool's description is not valid. ``field`` names it."""

    code = Code.INVALID_ARGUMENT
    reason = "POOL_INVALID"
    hint = "correct the field that the message names, in CloudStack's pool or in the call"


class PoolNotFound(ServiceError):
    """No pool with this id, or with the image's folder as its root, was made reachable here."""

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
    """The pool's directory does not exist, is not a directory, or is not mounted any more."""

    code = Code.FAILED_PRECONDITION
    reason = "POOL_MISSING"
    hint = "run the disk agent on a host that has the pool, or mount it there"


class PoolReadOnly(ServiceError):
    """The pool can be read but not written."""

    code = Code.FAILED_PRECONDITION
    reason = "POOL_READ_ONLY"
    hint = "export and mount the pool for writing, with no_root_squash for this host"


class PoolMountFailed(ServiceError):
    """The mount command failed or timed out. ``detail`` is its message."""

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
    """The pool has not enough space. The metadata gives the needed, free and promised bytes."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "POOL_FULL"
    hint = "make space on the storage pool, or choose another one for this disk"


class ImageInvalid(ServiceError):
    """A name or a size that no image can have. ``field`` names it."""

    code = Code.INVALID_ARGUMENT
    reason = "IMAGE_INVALID"
    hint = "correct the name or the size that the message names"


class ImageNotFound(ServiceError):
    """The image's file does not exist."""

    code = Code.NOT_FOUND
    reason = "IMAGE_NOT_FOUND"
    hint = "create the image first, or put the file back where it was"


class ImageExists(ServiceError):
    """The file exists and has another size than requested, or a backing file."""

    code = Code.ALREADY_EXISTS
    reason = "IMAGE_EXISTS"
    hint = "delete it if it is left over from an earlier migration; it may belong to another VM"


class ImageUnusable(ServiceError):
    """The file is not a QCOW2 image that CloudStack accepts, or it is damaged."""

    code = Code.FAILED_PRECONDITION
    reason = "IMAGE_UNUSABLE"
    hint = (
        "find out whose file it is; if it is left over from a migration, delete it and copy the "
        "disk again"
    )


class ImageLocked(ServiceError):
    """Another process has the image open for writing."""

    code = Code.FAILED_PRECONDITION
    reason = "IMAGE_LOCKED"
    retryable = True
    hint = (
        "find the process that has it open (fuser FILE), perhaps a VM started from it, and end it"
    )


class ImageShrinkRefused(ServiceError):
    """The new size is smaller than the present one."""

    code = Code.FAILED_PRECONDITION
    reason = "IMAGE_SHRINK_REFUSED"
    hint = "a disk is never made smaller: create a new image instead"
