"""Whether virtual machines may run on this host."""

from pathlib import Path

__all__ = ["hypervisor_sign"]

# libvirt's daemons make the folder when they start, also if they end again; CloudStack's agent
# has the other one on every KVM host. Programs that only talk to libvirt make neither.
_SIGNS = (Path("/run/libvirt"), Path("/etc/cloudstack/agent/agent.properties"))


def hypervisor_sign(root: Path = Path("/")) -> str:
    """The path that shows it, or nothing."""
    found = (sign for sign in _SIGNS if (root / sign.relative_to("/")).exists())
    return str(next(found, ""))
