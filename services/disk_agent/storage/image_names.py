"""Which file names an image may have."""

import re

# Leaves room in the 255 bytes of a file name for the prefixes and suffixes of other tools.
_NAME_LIMIT = 200
_VALID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.qcow2")


def is_image_name(name: str) -> bool:
    """Whether an image may have this name: no directory, plain characters, ending in .qcow2."""
    return bool(_VALID.fullmatch(name)) and len(name) <= _NAME_LIMIT
