"""The agents' reasons that the state machine reacts to.

They are equal to the agents' strings, which a test checks; the agents' code is not imported. All
other reasons are passed on unchanged.
"""

from enum import StrEnum

__all__ = ["Reason"]


class Reason(StrEnum):
    """Compares equal to a failure's `reason`."""

    # vmware agent
    CBT_RESET = "CBT_RESET"
    TOOLS_NOT_RUNNING = "TOOLS_NOT_RUNNING"
    # disk agent
    CHUNK_MAP_UNUSABLE = "CHUNK_MAP_UNUSABLE"
    CONTENT_MISMATCH = "CONTENT_MISMATCH"
    CONVERSION_NOT_FOUND = "CONVERSION_NOT_FOUND"
    TRANSFER_ENDED = "TRANSFER_ENDED"
    TRANSFER_NOT_FOUND = "TRANSFER_NOT_FOUND"
    # cloudstack agent
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    VM_NOT_FOUND = "VM_NOT_FOUND"
