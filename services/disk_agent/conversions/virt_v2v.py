"""virt-v2v-in-place as a program: its path, its version and options, its command line."""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from services.disk_agent.host.commands import Commands, tool_failed, tool_missing

_TOOL = "virt-v2v-in-place"
# EL installs it outside PATH, because it changes disks without a backup.
_EL_DIRECTORY = "/usr/libexec"
_PROBE_SECONDS = 30.0
_PASSED_ON = re.compile(r"^(HOME|PATH|PYTHONPATH|LIBGUESTFS_\w+|SUPERMIN_\w+|VIRT\w+)$")
_VERSION = re.compile(r"\b(\d+\.\d+\.\d+)")


@dataclass(frozen=True)
class VirtV2v:
    """An installed virt-v2v-in-place; ``options`` are the long options its --help shows."""

    path: Path
    version: str
    options: frozenset[str]

    def command(self, disks: tuple[Path, ...], messages: Path, domain: Path) -> list[str]:
        """The command line for QCOW2 ``disks``, the boot disk first.

        It writes its messages to ``messages`` as JSON lines and its debug log to stderr. Several
        disks are shown as a libvirt domain, whose XML the caller writes to ``domain``.
        """
        command = [str(self.path), "-v", f"--machine-readable=file:{messages}", "--root", "first"]
        if "--no-fstrim" in self.options:
            # Trimming frees nothing on an overlay, and would lengthen the downtime.
            command.append("--no-fstrim")
        if len(disks) == 1:
            return [*command, "-i", "disk", str(disks[0])]
        return [*command, "-i", "libvirtxml", str(domain)]


def find_virt_v2v(commands: Commands, search_path: str | None = None) -> VirtV2v:
    """The installed virt-v2v-in-place, with its version and options. Blocks.

    ``search_path`` has the form of PATH; None is this process's PATH and then /usr/libexec. Raises
    ToolMissing, ToolTimeout, or ToolFailed when the program does not print its version.
    """
    if search_path is None:
        search_path = os.pathsep.join([os.environ.get("PATH", os.defpath), _EL_DIRECTORY])
    found = shutil.which(_TOOL, path=search_path)
    if found is None:
        raise tool_missing(_TOOL)
    shown = commands.run([found, "--version"], timeout_seconds=_PROBE_SECONDS)
    version = _VERSION.search(shown.stdout)
    if shown.status != 0 or version is None:
        raise tool_failed(_TOOL, shown)
    usage = commands.run([found, "--help"], timeout_seconds=_PROBE_SECONDS)
    options = frozenset(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", usage.stdout))
    return VirtV2v(Path(found), version[1], options)


def conversion_environment(
    base: Mapping[str, str],
    libguestfs: Mapping[str, str],
    *,
    temporary: Path,
    large_temporary: Path,
    virtio_iso: Path | None,
) -> dict[str, str]:
    """The environment of a conversion: messages in English, its own temporary directories.

    Only the variables of ``base`` that programs need are passed on: an agent's environment may hold
    secrets. ``temporary`` must have a short path, because virt-v2v puts unix sockets there.
    VIRTIO_WIN names the Windows drivers (virt-v2v(1)); it is not set if the file is missing,
    because Linux guests need none.
    """
    environment = {
        **{name: value for name, value in base.items() if _PASSED_ON.match(name)},
        **libguestfs,
        "LC_ALL": "C",
        "TMPDIR": str(temporary),
        "VIRT_V2V_TMPDIR": str(large_temporary),
    }
    if virtio_iso is not None and virtio_iso.exists():
        environment["VIRTIO_WIN"] = str(virtio_iso)
    return environment


def domain_xml(name: str, disks: tuple[Path, ...]) -> str:
    """A libvirt domain with these QCOW2 disks and the other elements that virt-v2v needs."""
    devices = "".join(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
        f"<source file={quoteattr(str(disk))}/><target dev='{_drive_name(n)}' bus='scsi'/></disk>"
        for n, disk in enumerate(disks)
    )
    return (
        f"<domain type='kvm'><name>{escape(name)}</name><memory unit='MiB'>1024</memory>"
        "<vcpu>1</vcpu><os><type arch='x86_64'>hvm</type></os><features><acpi/></features>"
        f"<devices>{devices}</devices></domain>"
    )


def _drive_name(index: int) -> str:
    # sda … sdz, sdaa …: as the kernel names them.
    letters = ""
    index += 1
    while index:
        index, letter = divmod(index - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return f"sd{letters}"
