"""Creates the disks of a new lab's VMs with their content."""

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
            # An earlier start was killed before it saved this VM: create the same content again.
            disks.remove_disk(record.moref, disk.key)
            disks.add_disk(record.moref, disk.key, disk.path, disk.capacity_bytes, image)
        if image is not None:
            image.unlink()


def _image(record: VmRecord, disk: DiskRecord, scratch: Path) -> Path | None:
    """Write a disk's raw content to a file in ``scratch``; also sets the writer's area."""
    path = scratch / f"{record.moref}-{disk.key}.raw"
    content = disk.spec.content
    if content is Content.GUEST:
        firmware: Firmware = "uefi" if record.spec.firmware == "efi" else "bios"
        guest = build_micro_guest(path, firmware)
        disk.write_area = guest.scratch_area
        # At least the image's size: a guest's partition table must fit its disk exactly.
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
    """Write a sparse file of random data, holes and written zeroes in turn."""
    source = random.Random(seed)
    step = min(MIB, size_bytes)
    with path.open("wb") as stream:
        stream.truncate(size_bytes)
        for index, offset in enumerate(range(0, size_bytes, step)):
            length = min(step, size_bytes - offset)
            # data, data, hole, zeroes: half data, a quarter holes, a quarter zeroes.
            kind = index % 4
            if kind != 2:
                stream.seek(offset)
                stream.write(source.randbytes(length) if kind < 2 else bytes(length))
