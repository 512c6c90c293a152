"""File names of images: unique, recognisable, and accepted by every pool and by CloudStack."""

import re
import unicodedata

__all__ = ["image_name"]

# The disk agent refuses longer names. Linux allows 255 bytes, as does the column `path` of
# CloudStack's table `volumes`; the difference is for suffixes that other tools add.
_NAME_LIMIT = 200
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
# vCenter's are short; the database has no room for longer ones.
_MOREF_LIMIT = 128
# As much of a migration's id as keeps two migrations of one machine apart.
_ID_DIGITS = 8


def image_name(vm_name: str, moref: str, unit: int, migration_id: str) -> str:
    """The file name for a machine's disk: ``<vm>_<moref>_disk<unit>_<migration>.qcow2``.

    CloudStack's importer requires the suffix. `moref` and `unit` make the name unique in one
    vCenter. The migration's id makes it differ from the image of the machine's earlier migration,
    which may be a running machine's disk by then, and from images of another vCenter's machines.
    Letters lose their accents; other characters outside a safe set become ``-``. vCenter writes a
    slash in a name as ``%2f``.

    Raises ValueError without a moref or a migration, with a negative unit, or with a moref that is
    too long to be one.
    """
    machine, migration = _safe(moref), _safe(migration_id)[:_ID_DIGITS]
    ending = f"_{machine}_disk{unit}_{migration}.qcow2"
    room = _NAME_LIMIT - len(ending)
    if not machine or not migration or unit < 0 or len(moref) > _MOREF_LIMIT or room < 1:
        raise ValueError(
            f"no image name for moref {moref!r}, unit {unit} and migration {migration_id!r}"
        )
    stem = _safe(re.sub("%2f", "-", vm_name, flags=re.IGNORECASE)) or "vm"
    return stem[:room].rstrip(".-_") + ending


def _safe(text: str) -> str:
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return _UNSAFE.sub("-", ascii_text).strip(".-_")
