"""Refused calls about conversions. Why a conversion itself failed is in `failures`."""

from services.kit.failure import Code, ServiceError


class ConversionInvalid(ServiceError):
    """The request is not valid. ``field`` names the wrong fields."""

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
    """Another conversion is running on one of the images, or has to finish its commit."""

    code = Code.ABORTED
    reason = "CONVERSION_BUSY"
    retryable = True
    hint = "wait for the other conversion; if its commit was interrupted, start it again"
