"""Content of a new lab's disks, and the disks' registration with their store."""

from __future__ import annotations

import random
from pathlib import Path

from lab.esxi.model import EsxiError
from lab.guest import Firmware, build_micro_guest
from lab.scenario import MIB, Content
from lab.vcenter.world.ports import DiskStore
from lab.vcenter.world.vm_state import DiskRecord, VmRecord

_ALIGN_BYTES = 4096


def add_disks(record: VmRecord, disks: DiskStore, scratch: Path) -> None:
    """Create the VM's disks in the store, filled as its scenario says."""
    for disk in record.disks:
        image = _image(record, disk, scratch)
        try:
            disks.add_disk(record.moref, disk.key, disk.path, disk.capacity_bytes, image)
        except EsxiError as error:
            if error.kind != "already_exists":
                raise
            # A start that died before it had noted this VM: begin again with the same content.
            disks.remove_disk(record.moref, disk.key)
            disks.add_disk(record.moref, disk.key, disk.path, disk.capacity_bytes, image)
        if image is not None:
            image.unlink()


def _image(record: VmRecord, disk: DiskRecord, scratch: Path) -> Path | None:
    """Raw content in a file of ``scratch``, and where the writer may write."""
    path = scratch / f"{record.moref}-{disk.key}.raw"
    content = disk.spec.content
    if content is Content.GUEST:
        firmware: Firmware = "uefi" if record.spec.firmware == "efi" else "bios"
        guest = build_micro_guest(path, firmware)
        disk.write_area = guest.scratch_area
        # The image decides: a guest's partition table must fit its disk exactly.
        disk.capacity_bytes = max(disk.capacity_bytes, path.stat().st_size)
        return path
    if content is Content.PATTERN:
        write_pattern(path, disk.capacity_bytes, seed=f"{record.moref}/{disk.key}")
        disk.write_area = (0, disk.capacity_bytes // _ALIGN_BYTES * _ALIGN_BYTES)
        return path
    if content is Content.EMPTY:
        disk.write_area = (0, disk.capacity_bytes // _ALIGN_BYTES * _ALIGN_BYTES)
    return None


def write_pattern(path: Path, size_bytes: int, seed: str) -> None:
    """A sparse file: per 4 MiB one of random data, and in turn, holes and written zeroes."""
    source = random.Random(seed)
    step = min(MIB, size_bytes)
    with path.open("wb") as stream:
        stream.truncate(size_bytes)
        for index, offset in enumerate(range(0, size_bytes, step)):
            length = min(step, size_bytes - offset)
            # data, data, hole, zeroes: a quarter of each awkward kind, at least half of data.
            kind = index % 4
            if kind != 2:
                stream.seek(offset)
                stream.write(source.randbytes(length) if kind < 2 else bytes(length))
