"""The partitions of a micro-guest's disk."""

from dataclasses import dataclass
from typing import Literal

Firmware = Literal["bios", "uefi"]

MIB = 1 << 20
SECTOR_BYTES = 512
DISK_BYTES = 256 * MIB

ESP_GUID = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
LINUX_GUID = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"


@dataclass(frozen=True)
class Partition:
    """One partition: number from 1, start and size in bytes, and the table's type code."""

    number: int
    start_bytes: int
    size_bytes: int
    kind: str


@dataclass(frozen=True)
class Layout:
    """Partition table of a micro-guest. ``esp`` exists with UEFI firmware only.

    ``scratch_area`` is (start, length) in bytes of the unpartitioned rest of the disk.
    """

    label: Literal["dos", "gpt"]
    root: Partition
    esp: Partition | None
    scratch_area: tuple[int, int]

    @property
    def sfdisk_script(self) -> str:
        """Input of sfdisk: https://man7.org/linux/man-pages/man8/sfdisk.8.html"""
        lines = [f"label: {self.label}"]
        if self.label == "dos":
            lines.append("label-id: 0x76326331")
        for part in filter(None, (self.esp, self.root)):
            start, size = part.start_bytes // SECTOR_BYTES, part.size_bytes // SECTOR_BYTES
            bootable = ", bootable" if self.label == "dos" and part is self.root else ""
            lines.append(f"{part.number}: start={start}, size={size}, type={part.kind}{bootable}")
        return "\n".join(lines) + "\n"


def layout_for(firmware: Firmware) -> Layout:
    """The layout for a firmware.

    virt-v2v requires 50 MiB of free space on ``/`` and 10 MiB on the ESP. The scratch area is for
    the lab's writer. It is outside all partitions, because without KVM a conversion takes about a
    second to inspect a partition.
    """
    if firmware == "bios":
        return Layout(
            label="dos",
            root=Partition(1, 1 * MIB, 95 * MIB, "83"),
            esp=None,
            scratch_area=(96 * MIB, 160 * MIB),
        )
    return Layout(
        label="gpt",
        esp=Partition(1, 1 * MIB, 31 * MIB, ESP_GUID),
        root=Partition(2, 32 * MIB, 96 * MIB, LINUX_GUID),
        # The last MiB has the second copy of the partition table.
        scratch_area=(128 * MIB, 127 * MIB),
    )
