"""What fails on this host: its programs, and the agent's own files."""

from services.kit.failure import Code, ServiceError


class ToolMissing(ServiceError):
    """A program this agent needs is not installed. ``tool`` names it."""

    code = Code.FAILED_PRECONDITION
    reason = "TOOL_MISSING"
    hint = "install the program on the disk agent's host"


class ToolFailed(ServiceError):
    """A program failed unexpectedly: ``tool`` is its name, ``detail`` its message."""

    code = Code.INTERNAL
    reason = "TOOL_FAILED"
    hint = "look at the program's message, and at the storage below the pool"


class ToolTimeout(ServiceError):
    """A program did not end in time, usually because the storage does not answer."""

    code = Code.DEADLINE_EXCEEDED
    reason = "TOOL_TIMEOUT"
    retryable = True
    hint = "check that the storage below the pool answers (NFS server, network), then retry"


class StateDamaged(ServiceError):
    """The content of a state file of this agent is not valid. ``path`` names it."""

    code = Code.DATA_LOSS
    reason = "STATE_DAMAGED"
    hint = "look at the file; move it away to continue without it"
