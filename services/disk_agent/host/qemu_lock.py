"""How QEMU's programs report that another process has an image open."""

import re

# qemu, block/file-posix.c (raw_check_lock_bytes) and the names of permissions in block.c, such as
# "write", "consistent read" and "resize". Paths are quoted in another way.
LOCK_MESSAGE = re.compile(r'Failed to get (shared )?"[a-z ]+" lock', re.IGNORECASE)


def reports_lock(messages: str) -> bool:
    """Whether messages of qemu-img, qemu-nbd or virt-v2v are about a lock that somebody has."""
    return bool(LOCK_MESSAGE.search(messages))
