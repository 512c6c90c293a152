"""Micro-guests: tiny bootable Linux disks that a real conversion accepts.

A micro-guest resembles Debian and takes about 25 MB on a sparse disk of 256 MiB: the host's own
kernel, busybox, GRUB, and an initramfs whose only disk driver is that of VMware's paravirtual SCSI
adapter. It boots from that adapter but not from virtio; after ``virt-v2v-in-place`` it boots from
virtio.
"""

from lab.guest.build import Guest, build_micro_guest
from lab.guest.errors import GuestBuildError, MissingToolError
from lab.guest.layout import Firmware

__all__ = ["Firmware", "Guest", "GuestBuildError", "MissingToolError", "build_micro_guest"]
