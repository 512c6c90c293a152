"""File names of images: safe on every pool, unique, and recognisable."""

import re
import unicodedata

# Leaves room in the 255 bytes of a file name for the prefixes and suffixes of other tools.
_NAME_LIMIT = 200
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_VALID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*\.qcow2$")


def image_name(vm_name: str, moref: str, unit: int) -> str:
    """The file name for a VM's disk: ``<vm>_<moref>_disk<unit>.qcow2``.

    ``moref`` makes it unique in one vCenter. Letters lose their accents; what else CloudStack, a
    shell or a file system could stumble over becomes ``-``. ``%2f`` is vCenter's way to write a
    slash in a name. Raises ValueError without a moref or with a negative unit.
    """
    ending = f"_{_safe(moref)}_disk{unit}.qcow2"
    if not _safe(moref) or unit < 0:
        raise ValueError(f"no image name for moref {moref!r} and unit {unit}")
    stem = _safe(vm_name.replace("%2f", "-").replace("%2F", "-")) or "vm"
    return stem[: _NAME_LIMIT - len(ending)].rstrip(".-_") + ending


def is_image_name(name: str) -> bool:
    """Whether a name may be an image's: no directory, ``.qcow2`` at its end, no surprises."""
    return bool(_VALID.match(name)) and len(name) <= _NAME_LIMIT


def _safe(text: str) -> str:
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return _UNSAFE.sub("-", ascii_text).strip(".-_")
