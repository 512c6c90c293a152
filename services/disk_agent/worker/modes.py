"""What a transfer does: its mode, and whether that copies or writes."""

from enum import StrEnum


class Mode(StrEnum):
    """A transfer reads, copies, compares or repairs."""

    FULL = "full"
    RANGES = "ranges"
    RESYNC = "resync"
    VERIFY_TARGET = "verify-target"
    VERIFY_FULL = "verify-full"
    REPAIR = "repair"

    @property
    def copies(self) -> bool:
        """Whether the mode is a pass that copies; the map is bound to such a pass."""
        return self in (Mode.FULL, Mode.RANGES, Mode.RESYNC)

    @property
    def writes(self) -> bool:
        """Whether the target is changed."""
        return self.copies or self is Mode.REPAIR
