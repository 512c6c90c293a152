"""Why a conversion failed. Causes that virt-v2v's messages name are classes with a pattern."""

import re
from typing import ClassVar

from services.disk_agent.host.qemu_lock import LOCK_MESSAGE
from services.disk_agent.storage.errors import ImageLocked
from services.kit.failure import Code, ServiceError


class ConversionFailure(ServiceError):
    """A conversion ended without success; the image is as it was before."""

    code = Code.ABORTED
    reason = "CONVERSION_FAILED"
    hint = "look at the conversion's log on the disk agent's host"


class ConversionCancelled(ConversionFailure):
    """The conversion was ended by CancelConversion."""

    code = Code.CANCELLED
    reason = "CONVERSION_CANCELLED"
    hint = "start a conversion with another id; the image is as it was before"


class ConversionTimeout(ConversionFailure):
    """The conversion did not end in time."""

    code = Code.DEADLINE_EXCEEDED
    reason = "CONVERSION_TIMEOUT"
    retryable = True
    hint = "look at the log for the last step; raise the timeout, or run it where KVM works"


class ConversionInterrupted(ConversionFailure):
    """The disk agent ended while the conversion ran."""

    code = Code.UNAVAILABLE
    reason = "CONVERSION_INTERRUPTED"
    retryable = True
    hint = "start the conversion again; the image is as it was before"


class CommitInterrupted(ConversionFailure):
    """The converted guest is partly written into the image; starting again writes the rest."""

    code = Code.UNAVAILABLE
    reason = "COMMIT_INTERRUPTED"
    retryable = True
    hint = "start the same conversion again: it only finishes writing the converted guest"


class VirtioDriversMissing(ConversionFailure):
    """virt-v2v ended with status 0, but the guest still has no virtio drivers."""

    code = Code.FAILED_PRECONDITION
    reason = "VIRTIO_DRIVERS_MISSING"
    hint = (
        "Windows: install the package virtio-win or set virt.virtio_iso to its ISO, then retry; "
        "Linux: roll back, install a kernel with virtio drivers in the guest, and migrate it again"
    )


class KnownCause(ConversionFailure):
    """A failure of virt-v2v whose messages match `pattern`; its message begins with `summary`."""

    code = Code.FAILED_PRECONDITION
    pattern: ClassVar[str]
    summary: ClassVar[str]

    @classmethod
    def matches(cls, text: str) -> bool:
        """Whether messages, or lines of a log, name this cause."""
        return bool(re.search(cls.pattern, text, re.IGNORECASE | re.DOTALL))


class NoOperatingSystem(KnownCause):
    """virt-v2v found no operating system on the disks that it was given."""

    pattern = (
        r"could not (detect|find).{0,40}(source guest|operating system)|no root device found"
        r"|no operating systems? (was|were)? ?found"
    )
    reason = "NO_OPERATING_SYSTEM"
    summary = "no operating system was found on the disk"
    hint = (
        "if the system is spread over several disks, convert with all disks; an appliance or an "
        "encrypted guest is migrated with run_virt_v2v: false"
    )


class GuestEncrypted(KnownCause):
    """A disk of the guest is encrypted and there is no key for it."""

    pattern = r"(could not find key to open|LUKS|BitLocker).{0,80}(encrypt|key|passphrase|locked)"
    reason = "GUEST_ENCRYPTED"
    summary = "the guest's disk is encrypted and there is no key for it"
    hint = (
        "decrypt it in the guest before the migration, or migrate with run_virt_v2v: false after "
        "installing virtio drivers in the guest"
    )


class GuestFilesystemDirty(KnownCause):
    """A file system of the guest can only be mounted read-only."""

    pattern = (
        r"mounted read-?only|hibernat|fast restart|unclean file system|metadata kept in windows "
        r"cache"
    )
    reason = "GUEST_FILESYSTEM_DIRTY"
    summary = (
        "a file system of the guest can only be mounted read-only: it was not shut down cleanly, "
        "or Windows was hibernated (fast startup counts)"
    )
    hint = (
        "roll back, which starts the source; there switch fast startup off (powercfg /h off), run "
        "a file system check, and migrate it again"
    )


class GuestDiskFull(KnownCause):
    """A file system of the guest has not enough free space or inodes."""

    pattern = r"not enough (free space for conversion|available inodes)"
    reason = "GUEST_DISK_FULL"
    summary = "a file system of the guest has not enough free space"
    hint = (
        "roll back, which starts the source; free 100 MB on its system disk and 50 MB on /boot, "
        "and migrate it again"
    )


class HostDiskFull(KnownCause):
    """The disk agent's host has not enough space for temporary files."""

    code = Code.RESOURCE_EXHAUSTED
    pattern = r"insufficient free space in the conversion server|no space left on device"
    reason = "HOST_DISK_FULL"
    retryable = True
    summary = "this host has not enough space for temporary files"
    hint = "free at least 1 GB in migration.workdir and in libguestfs' cache (/var/tmp), then retry"


class GuestBootloaderMissing(KnownCause):
    """No boot loader was found in the guest."""

    pattern = r"no bootloader detected|could not find bootloader"
    reason = "GUEST_BOOTLOADER_MISSING"
    summary = "no boot loader was found in the guest"
    hint = "if /boot is on another disk, convert with all disks"


class GuestMultiBoot(KnownCause):
    """The disk holds several operating systems."""

    pattern = r"multi-?boot|more than one operating system|--root"
    reason = "GUEST_MULTI_BOOT"
    summary = "the disk holds several operating systems"
    hint = "leave only one of them, or convert by hand with virt-v2v-in-place --root /dev/…"


class ConvertedImageLocked(ImageLocked, KnownCause):
    """Another process has the image open for writing."""

    pattern = LOCK_MESSAGE.pattern
    summary = "another process has the image open"


class GuestKernelUnknown(KnownCause):
    """No kernel that could be converted was found in the guest."""

    pattern = r"no installed kernel packages|no kernels were found|only xen kernels"
    reason = "GUEST_KERNEL_UNKNOWN"
    summary = "no kernel that could be converted was found in the guest"
    hint = (
        "install a kernel package of the distribution in the guest; virt-v2v 2.2 does not know the "
        "boot entries of EL 9, 2.3.4 does"
    )


class GuestUnsupported(KnownCause):
    """virt-v2v cannot convert this kind of guest."""

    pattern = r"unable to convert this guest|inspection of the package database failed"
    reason = "GUEST_UNSUPPORTED"
    summary = "virt-v2v does not know this kind of guest"
    hint = "install virtio drivers in the guest before the migration and set run_virt_v2v: false"


class GuestInitramfsFailed(KnownCause):
    """The guest's initramfs could not be rebuilt."""

    pattern = (
        r"(update-initramfs|dracut|mkinitrd|make-initrd)[^\n]*(error|fail|exit)|unable to rebuild "
        r"initrd|error: command:[^\n]*initr"
    )
    reason = "GUEST_INITRAMFS_FAILED"
    summary = "the guest's initramfs could not be rebuilt"
    hint = (
        "roll back, which starts the source; there run the rebuild (update-initramfs -u, "
        "dracut -f), correct what it reports, and migrate it again"
    )


class ApplianceFailed(KnownCause):
    """The appliance, libguestfs' small virtual machine, did not start or ended too early."""

    code = Code.UNAVAILABLE
    pattern = (
        r"guestfs_launch failed|appliance (closed|failed|process)|supermin exited|guestfsd.*"
        r"unexpectedly|cannot find any suitable libguestfs|child process died"
    )
    reason = "APPLIANCE_FAILED"
    retryable = True
    summary = "libguestfs' helper machine did not start"
    hint = (
        "run libguestfs-test-tool on this host; a kernel in /boot, 1 GB of memory and space in "
        "/var/tmp are needed"
    )


# Patterns for virt-v2v 2.0 to 2.12 and libguestfs 1.48 to 1.58. The first one that matches decides.
CAUSES: tuple[type[KnownCause], ...] = (
    NoOperatingSystem,
    GuestEncrypted,
    GuestFilesystemDirty,
    GuestDiskFull,
    HostDiskFull,
    GuestBootloaderMissing,
    GuestMultiBoot,
    ConvertedImageLocked,
    GuestKernelUnknown,
    GuestUnsupported,
    GuestInitramfsFailed,
    ApplianceFailed,
)
