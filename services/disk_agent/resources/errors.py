"""Commands that come too late."""

from services.kit.failure import Code, ServiceError


class StaleEpoch(ServiceError):
    """The command's epoch is older than the image's fence: a newer attempt uses the image."""

    code = Code.FAILED_PRECONDITION
    reason = "STALE_EPOCH"
    hint = "a newer attempt or another orchestrator continues this migration; let this one end"
