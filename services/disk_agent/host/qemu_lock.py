"""Recognises QEMU's messages about an image that another process has open."""

import re

# qemu, block/file-posix.c (raw_check_lock_bytes), with the names of permissions in block.c, such as
# "write", "consistent read" and "resize". QEMU quotes paths with other characters.
LOCK_MESSAGE = re.compile(r'Failed to get (shared )?"[a-z ]+" lock', re.IGNORECASE)


def reports_lock(messages: str) -> bool:
    """Whether qemu-img, qemu-nbd or virt-v2v reported that another process has the image locked."""
    return bool(LOCK_MESSAGE.search(messages))
