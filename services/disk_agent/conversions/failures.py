"""Why a conversion failed, found in what virt-v2v-in-place said.

Its exit status is 1 for everything, so the texts decide. Each entry of the table names the likely
cause and the next step; the order matters where several texts appear in one log.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from services.disk_agent.failures import TransferFailure
from services.kit.failure import ServiceError


class ConversionFailure(TransferFailure):
    """An expected end of a conversion that is not success; the image is as it was before."""

    reason = "CONVERSION_FAILED"

    @classmethod
    def of(cls, error: ServiceError) -> Self:
        """An error of another part of this agent, as the end of a conversion."""
        return cls(
            error.message,
            reason=error.reason,
            metadata=error.metadata,
            retryable=error.retryable,
            hint=error.hint,
        )


class ConversionCancelled(ConversionFailure):
    """Somebody asked for the end."""

    reason = "CONVERSION_CANCELLED"


class ConversionTimeout(ConversionFailure):
    """It did not end in time."""

    reason = "CONVERSION_TIMEOUT"
    retryable = True
    hint = "look at the log for the last step; raise the timeout, or run it where KVM works"


class ConversionInterrupted(ConversionFailure):
    """The agent ended while it ran."""

    reason = "CONVERSION_INTERRUPTED"
    retryable = True
    hint = "start the conversion again; the image is as it was before"


class CommitInterrupted(ConversionFailure):
    """The converted guest is partly written into the image; starting again writes the rest."""

    reason = "COMMIT_INTERRUPTED"
    retryable = True
    hint = "start the same conversion again: it only finishes writing the converted guest"


class VirtioDriversMissing(ConversionFailure):
    """virt-v2v ended well, and the guest still has no virtio drivers."""

    reason = "VIRTIO_DRIVERS_MISSING"
    hint = (
        "Windows: install the package virtio-win or set virt.virtio_iso to its ISO, then retry; "
        "Linux: install a kernel with virtio drivers in the guest"
    )


@dataclass(frozen=True)
class Cause:
    """One known cause: the text that shows it, its reason, what it means and what to do."""

    pattern: re.Pattern[str]
    reason: str
    message: str
    hint: str
    retryable: bool = False


def _cause(pattern: str, reason: str, message: str, hint: str, *, retryable: bool = False) -> Cause:
    return Cause(re.compile(pattern, re.IGNORECASE | re.DOTALL), reason, message, hint, retryable)


# Texts of virt-v2v 2.0 to 2.12 and libguestfs 1.48 to 1.58.
CAUSES = (
    _cause(
        r"could not (detect|find).{0,40}(source guest|operating system)|no root device found"
        r"|no operating systems? (was|were)? ?found",
        "NO_OPERATING_SYSTEM",
        "no operating system was found on the disk",
        "if the system is spread over several disks, convert with all disks; an appliance or an "
        "encrypted guest is migrated with run_virt_v2v: false",
    ),
    _cause(
        r"(could not find key to open|LUKS|BitLocker).{0,80}(encrypt|key|passphrase|locked)",
        "GUEST_ENCRYPTED",
        "the guest's disk is encrypted and there is no key for it",
        "decrypt it in the guest before the migration, or migrate with run_virt_v2v: false after "
        "installing virtio drivers in the guest",
    ),
    _cause(
        r"mounted read-?only|hibernat|fast restart|unclean file system|metadata kept in windows "
        r"cache",
        "GUEST_FILESYSTEM_DIRTY",
        "a file system of the guest can only be mounted read-only: it was not shut down cleanly, "
        "or Windows was hibernated (fast startup counts)",
        "start the source VM, switch fast startup off (powercfg /h off), run a file system check, "
        "shut it down fully, sync again and convert",
    ),
    _cause(
        r"not enough (free space for conversion|available inodes)",
        "GUEST_DISK_FULL",
        "a file system of the guest has not enough free space",
        "free 100 MB on the guest's system disk and 50 MB on /boot, sync again and convert",
    ),
    _cause(
        r"insufficient free space in the conversion server|no space left on device",
        "HOST_DISK_FULL",
        "this host has not enough space for temporary files",
        "free at least 1 GB in migration.workdir and in libguestfs' cache (/var/tmp), then retry",
        retryable=True,
    ),
    _cause(
        r"no bootloader detected|could not find bootloader",
        "GUEST_BOOTLOADER_MISSING",
        "no boot loader was found in the guest",
        "if /boot is on another disk, convert with all disks",
    ),
    _cause(
        r"multi-?boot|more than one operating system|--root",
        "GUEST_MULTI_BOOT",
        "the disk holds several operating systems",
        "leave only one of them, or convert by hand with virt-v2v-in-place --root /dev/…",
    ),
    _cause(
        r'failed to get (shared )?"(write|consistent read)" lock',
        "IMAGE_LOCKED",
        "another process has the image open",
        "find who has it open (fuser FILE) and end that, then retry",
        retryable=True,
    ),
    _cause(
        r"no installed kernel packages|no kernels were found|only xen kernels",
        "GUEST_KERNEL_UNKNOWN",
        "no kernel that could be converted was found in the guest",
        "install a kernel package of the distribution in the guest; virt-v2v 2.2 does not know the "
        "boot entries of EL 9, 2.3.4 does",
    ),
    _cause(
        r"unable to convert this guest|inspection of the package database failed",
        "GUEST_UNSUPPORTED",
        "virt-v2v does not know this kind of guest",
        "install virtio drivers in the guest before the migration and set run_virt_v2v: false",
    ),
    _cause(
        r"(update-initramfs|dracut|mkinitrd|make-initrd)[^\n]*(error|fail|exit)|unable to rebuild "
        r"initrd|error: command:[^\n]*initr",
        "GUEST_INITRAMFS_FAILED",
        "the guest's initramfs could not be rebuilt",
        "run the rebuild in the source VM (update-initramfs -u, dracut -f), correct what it "
        "reports, sync again and convert",
    ),
    _cause(
        r"guestfs_launch failed|appliance (closed|failed|process)|supermin exited|guestfsd.*"
        r"unexpectedly|cannot find any suitable libguestfs|child process died",
        "APPLIANCE_FAILED",
        "libguestfs' helper machine did not start",
        "run libguestfs-test-tool on this host; a kernel in /boot, 1 GB of memory and space in "
        "/var/tmp are needed",
        retryable=True,
    ),
)

_EL9 = re.compile(r"(Enterprise Linux|CentOS Stream|Rocky|Alma|Oracle)\D{0,30}9\b", re.IGNORECASE)
_ERROR_LINE = re.compile(r"^virt-v2v(?:-in-place)?: error: (.+)$", re.MULTILINE)
# guestfsd's errors are left out: most of them are answers to "is this there?".
_FATAL_LINE = re.compile(
    r"^(?:(?:virt-v2v[\w-]*|supermin|qemu-[\w-]+|nbdkit): .*(?:error|fail).*"
    r"|libguestfs: error: .+)$",
    re.MULTILINE | re.IGNORECASE,
)
_MESSAGE_LIMIT = 600


def classify(
    errors: Sequence[str], log_tail: str, *, guest_os: str, version: str, status: int
) -> ConversionFailure:
    """The failure for a virt-v2v that ended with ``status`` other than 0.

    ``errors`` are its error messages, ``log_tail`` the end of its log; causes are looked for in
    the messages first, because a log tells of many errors that did not matter.
    """
    said = " ".join(errors) or " ".join(_ERROR_LINE.findall(log_tail))
    for text in (said, "\n".join(_FATAL_LINE.findall(log_tail))):
        for cause in CAUSES:
            if text and cause.pattern.search(text):
                return ConversionFailure(
                    _join(cause.message, said),
                    reason=cause.reason,
                    metadata=_metadata(guest_os, version, status),
                    retryable=cause.retryable,
                    hint=cause.hint,
                )
    hint = "look at the conversion's log on the disk agent's host"
    if _EL9.search(guest_os) and version_key(version) < (2, 3, 4):
        hint = f"virt-v2v {version} cannot convert EL 9 guests: install 2.3.4 or later"
    killed = f" (killed by signal {status - 128})" if status > 128 else ""
    return ConversionFailure(
        _join(f"virt-v2v-in-place failed with status {status}{killed}", said),
        metadata=_metadata(guest_os, version, status),
        hint=hint,
    )


def version_key(version: str) -> tuple[int, ...]:
    """``2.3.4`` as numbers that compare; empty for a text without."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def el9_warning(guest_os: str, version: str) -> str | None:
    """What to warn of when an EL 9 guest meets a virt-v2v that cannot convert it."""
    if _EL9.search(guest_os) and version_key(version) < (2, 3, 4):
        return f"virt-v2v {version} does not convert EL 9 guests reliably; 2.3.4 does"
    return None


def _join(message: str, said: str) -> str:
    return f"{message}: {said}"[:_MESSAGE_LIMIT] if said else message


def _metadata(guest_os: str, version: str, status: int) -> dict[str, str]:
    found = {"guest_os": guest_os, "virt_v2v_version": version, "status": str(status)}
    return {key: value for key, value in found.items() if value}
