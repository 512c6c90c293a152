"""Micro-guests: tiny bootable Linux disks that a real conversion accepts.

A micro-guest is a Debian look-alike of about 25 MB on a sparse disk of 256 MiB: the host's own
kernel, busybox, GRUB, and an initramfs that knows VMware's paravirtual SCSI adapter only. It
boots there and not on virtio; after ``virt-v2v-in-place`` it boots on virtio.
"""

from lab.guest.build import Guest, build_micro_guest
from lab.guest.errors import GuestBuildError, MissingToolError
from lab.guest.layout import Firmware

__all__ = ["Firmware", "Guest", "GuestBuildError", "MissingToolError", "build_micro_guest"]
