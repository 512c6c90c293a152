"""What this host can do, tested by running its programs."""

import platform
import re
from dataclasses import dataclass

from services.disk_agent.conversions.acceleration import KvmProbe
from services.disk_agent.host.commands import HostCommands
from services.disk_agent.host.errors import ToolMissing
from services.disk_agent.transfer_failures import SourceUnusable
from services.disk_agent.worker import nbdkit

_PROBE_SECONDS = 20.0
_VERSION = re.compile(r"\d+(?:\.\d+)+")


@dataclass(frozen=True)
class Capabilities:
    """The host's name, the sources it can open, and its programs' versions."""

    host: str
    sources: tuple[str, ...]
    virt_v2v_version: str
    kvm: bool
    versions: dict[str, str]


def probe(kvm: KvmProbe) -> Capabilities:
    """Probe nbdkit, qemu, libnbd, virt-v2v and KVM. Blocks, usually for up to a second."""
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
        # A host without nbdkit can still read from NBD servers.
        installed = None
    if installed is not None:
        versions["nbdkit"] = installed.version
        sources = installed.sources
    return Capabilities(
        host=platform.node(),
        sources=(*sources, "nbd"),
        virt_v2v_version=_version("virt-v2v-in-place", "--version"),
        kvm=kvm.works(),
        versions=versions,
    )


def _version(*command: str) -> str:
    try:
        done = HostCommands().run(command, timeout_seconds=_PROBE_SECONDS)
    except ToolMissing:
        return ""
    match = _VERSION.search(done.stdout)
    return match[0] if match else ""
