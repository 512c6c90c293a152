"""What this host can do, found out by asking its programs."""

import fcntl
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass

from services.disk_agent import nbdkit
from services.disk_agent.engine.failures import SourceUnusable

_PROBE_SECONDS = 20.0
# KVM_GET_API_VERSION of <linux/kvm.h>, _IO(0xAE, 0x00); every kernel since 2.6.22 answers 12.
_KVM_GET_API_VERSION = 0xAE00
_KVM_API_VERSION = 12
_VERSION = re.compile(r"\d+(?:\.\d+)+")


@dataclass(frozen=True)
class Capabilities:
    """The host's name, the sources it can open, and its programs' versions."""

    host: str
    sources: tuple[str, ...]
    virt_v2v_version: str
    kvm: bool
    versions: dict[str, str]


def probe() -> Capabilities:
    """Ask nbdkit, qemu, libnbd, virt-v2v and the kernel. Blocks for up to a second."""
    versions = {
        name: version
        for name, command in (
            ("qemu", ("qemu-nbd", "--version")),
            ("libnbd", ("nbdinfo", "--version")),
        )
        if (version := _version(*command))
    }
    sources: tuple[str, ...] = ()
    try:
        installed = nbdkit.probe()
    except SourceUnusable:
        # A host without nbdkit still reads from NBD servers.
        installed = None
    if installed is not None:
        versions["nbdkit"] = installed.version
        sources = installed.sources
    return Capabilities(
        host=platform.node(),
        sources=(*sources, "nbd"),
        virt_v2v_version=_version("virt-v2v-in-place", "--version"),
        kvm=_kvm_works(),
        versions=versions,
    )


def _version(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    said = subprocess.run(
        command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
    ).stdout
    match = _VERSION.search(said)
    return match[0] if match else ""


def _kvm_works() -> bool:
    """Whether /dev/kvm opens and answers: in containers it is often there and does neither."""
    try:
        fd = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return fcntl.ioctl(fd, _KVM_GET_API_VERSION, 0) == _KVM_API_VERSION
    except OSError:
        return False
    finally:
        os.close(fd)
