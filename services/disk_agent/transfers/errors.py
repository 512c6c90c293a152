"""Errors of calls about transfers. The failures of a running transfer are in `failures`."""

from services.kit.failure import Code, ServiceError


class TransferNotFound(ServiceError):
    """No transfer has this id."""

    code = Code.NOT_FOUND
    reason = "TRANSFER_NOT_FOUND"
    hint = "start it; transfers that ended may have been deleted"


class TransferExists(ServiceError):
    """The id is taken by a transfer with other parameters."""

    code = Code.ALREADY_EXISTS
    reason = "TRANSFER_EXISTS"
    hint = "choose another id, or start it with the parameters it was first started with"


class TransferEnded(ServiceError):
    """A cancelled transfer is not started again."""

    code = Code.FAILED_PRECONDITION
    reason = "TRANSFER_ENDED"
    hint = "choose another id: the new transfer resumes from the chunk map"


class TransferRunning(ServiceError):
    """A transfer that is still running, or its image, cannot be removed."""

    code = Code.FAILED_PRECONDITION
    reason = "TRANSFER_RUNNING"
    hint = "cancel it first"


class TargetBusy(ServiceError):
    """Another transfer is running on the same image."""

    code = Code.ABORTED
    reason = "TARGET_BUSY"
    retryable = True
    hint = "wait for the other transfer, or cancel it"


class InvalidTransfer(ServiceError):
    """The request is not valid. The message names what is wrong."""

    code = Code.INVALID_ARGUMENT
    reason = "INVALID_TRANSFER"
    hint = "correct what the message names, then start it again"


class TargetConverted(ServiceError):
    """The image holds a converted guest: copying changes of the source would corrupt it."""

    code = Code.FAILED_PRECONDITION
    reason = "TARGET_CONVERTED"
    hint = "cancel or roll back the migration and start a new one, which makes new images"
