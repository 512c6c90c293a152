"""A primary storage pool as this agent sees it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from services.disk_agent.storage.errors import PoolInvalid

# On Ubuntu NFSv4 mounts have lost locks, and QCOW2 flushes failed with EIO; NFSv3 has no such
# state. hard: a copy waits for a server that does not answer, instead of losing writes.
UBUNTU_NFS_OPTIONS = (
    "rw,relatime,vers=3,rsize=1048576,wsize=1048576,hard,proto=tcp,timeo=600,retrans=2"
)
NFS_OPTIONS = "rw,relatime,hard"
_NFS_URL = re.compile(r"^nfs://(?P<host>[^/]+)(?P<path>/.*)$")
_NFS_SOURCE = re.compile(r"^(\[[0-9A-Fa-f:.]+\]|[^\[\]:/\s]+):/\S*$")
_OPTIONS = re.compile(r"^[A-Za-z0-9_=,.:/+-]*$")


class PoolType(StrEnum):
    """CloudStack's kinds of primary storage that hold QCOW2 files."""

    NETWORK_FILESYSTEM = "NetworkFilesystem"
    FILESYSTEM = "Filesystem"
    SHARED_MOUNT_POINT = "SharedMountPoint"


@dataclass(frozen=True)
class PoolMount:
    """A pool to make reachable. ``source`` is ``server:/export`` for NFS, else the directory.

    ``options`` are mount's, comma-separated, empty for the defaults. This agent mounts NFS only; a
    SharedMountPoint is mounted by the host's operator, and a Filesystem is a directory.
    """

    id: str
    type: PoolType
    source: str
    path: Path
    options: str = ""


@dataclass(frozen=True)
class OwnMount:
    """The very mount that this agent made: of this boot, with the kernel's id and device.

    The same export at the same path is somebody else's mount after a reboot, or after an unmount.
    """

    boot_id: str
    mount_id: int
    device: str


@dataclass(frozen=True)
class Pool:
    """A pool that is reachable. ``path`` differs from the requested path if the export was already
    mounted at another path of this host. ``own`` is None if this agent did not make the mount.
    """

    mount: PoolMount
    path: Path
    own: OwnMount | None
    size_bytes: int
    free_bytes: int

    @property
    def mounted_by_agent(self) -> bool:
        """Whether this agent made the mount that is there."""
        return self.own is not None


def checked(wanted: PoolMount) -> PoolMount:
    """The pool with its source in the kernel's form. Raises PoolInvalid naming the wrong field."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", wanted.id):
        raise _invalid("id", f"{wanted.id!r} is no pool id")
    if not wanted.path.is_absolute() or ".." in wanted.path.parts:
        raise _invalid("path", f"{str(wanted.path)!r} is no absolute path")
    if wanted.type is not PoolType.NETWORK_FILESYSTEM:
        return wanted
    source = nfs_source(wanted.source)
    if not _NFS_SOURCE.match(source):
        raise _invalid("source", f"{wanted.source!r} is neither server:/export nor nfs://…")
    if not _OPTIONS.match(wanted.options):
        raise _invalid("options", f"{wanted.options!r} are no mount options")
    return PoolMount(wanted.id, wanted.type, source, wanted.path, wanted.options)


def nfs_source(source: str) -> str:
    """``server:/export`` of an NFS source or URL, without a slash at its end.

    CloudStack uses both forms; the kernel's table of mounts has ``server:/export``.
    """
    found = _NFS_URL.match(source)
    if found:
        source = f"{found['host']}:{found['path']}"
    server, colon, path = source.rpartition(":")
    return f"{server}:{path.rstrip('/') or '/'}" if colon else source


def default_nfs_options(os_release: str, environment: Mapping[str, str]) -> str:
    """Mount options for NFS on this host: ``V2C_NFS_MOUNT_OPTS``, else by distribution.

    ``os_release`` is the content of /etc/os-release.
    """
    override = environment.get("V2C_NFS_MOUNT_OPTS", "")
    if override:
        return override
    ubuntu = re.search(r'^ID="?ubuntu"?$', os_release, re.MULTILINE)
    return UBUNTU_NFS_OPTIONS if ubuntu else NFS_OPTIONS


def _invalid(field: str, message: str) -> PoolInvalid:
    return PoolInvalid(message=message, metadata={"field": f"pool.{field}"})
