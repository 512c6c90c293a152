"""What a storage host has to mount to write into a primary storage pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from services.cloudstack_agent.client.api import CloudStackApi, Row, list_rows, text
from services.cloudstack_agent.connection import server_version, version_numbers
from services.cloudstack_agent.errors import (
    CloudStackParameterRefused,
    StoragePoolNotFound,
    StoragePoolNotReady,
    StoragePoolUnsupported,
)

# NFSv4 mounts of Ubuntu hosts have lost locks, and flushes of QCOW2 images failed with EIO.
UBUNTU_NFS_OPTIONS: Final = (
    "rw,relatime,vers=3,rsize=1048576,wsize=1048576,hard,proto=tcp,timeo=600,retrans=2"
)
# Where CloudStack's own KVM agent mounts a pool: on a KVM host that mount is found and used.
_MOUNT_ROOT: Final = "/mnt"
# Before, importVm answers "Disk not found or is invalid" for such pools.
_MOUNT_POINT_SINCE: Final = (4, 22, 1)


@dataclass(frozen=True)
class NfsOptions:
    """What decides about the options of an NFS mount.

    `override` is what the operator chose (V2C_NFS_MOUNT_OPTS), empty for nothing; `on_ubuntu` is
    true when the storage hosts run Ubuntu.
    """

    override: str
    on_ubuntu: bool

    def choose(self, pool_options: str) -> str:
        """The operator's options, else Ubuntu's, else what CloudStack keeps with the pool."""
        if self.override:
            return self.override
        return UBUNTU_NFS_OPTIONS if self.on_ubuntu else pool_options


@dataclass(frozen=True)
class StoragePool:
    """A pool as a storage host sees it.

    `source` is ``server:/export``, or the directory itself, which is then `path` too and has no
    mount options. `import_source` is importVm's parameter, `host_id` the host of a local pool.
    """

    id: str
    name: str
    type: str
    source: str
    path: str
    options: str
    scope: str
    zone_id: str
    cluster_id: str
    import_source: str
    host_id: str


async def resolve_storage_pool(api: CloudStackApi, pool_id: str, nfs: NfsOptions) -> StoragePool:
    """What to mount for a pool, where and how.

    Raises StoragePoolNotFound, StoragePoolNotReady, StoragePoolUnsupported.
    """
    row = await _find(api, pool_id)
    kind, name = text(row, "type"), text(row, "name")
    if text(row, "state") != "Up":
        raise StoragePoolNotReady(
            message=f"storage pool {name} is in state {text(row, 'state') or 'unknown'}",
            metadata={"storage_pool": pool_id},
        )
    if kind == "NetworkFilesystem":
        source, path = _nfs_source(row), f"{_MOUNT_ROOT}/{pool_id}"
        options = nfs.choose(text(row, "nfsmountopts"))
    elif kind in ("SharedMountPoint", "Filesystem"):
        if kind == "SharedMountPoint":
            await _check_version(api, row)
        source = path = _directory(row)
        options = ""
    else:
        raise _unsupported(row, f"is of type {kind}")
    local = text(row, "scope").upper() == "HOST"
    return StoragePool(
        id=pool_id,
        name=name,
        type=kind,
        source=source,
        path=path,
        options=options,
        scope=text(row, "scope").upper(),
        zone_id=text(row, "zoneid"),
        cluster_id=text(row, "clusterid"),
        import_source="local" if local else "shared",
        host_id=await _host_of(api, row) if local else "",
    )


async def _find(api: CloudStackApi, pool_id: str) -> Row:
    try:
        rows = await list_rows(api, "listStoragePools", "storagepool", {"id": pool_id})
    except CloudStackParameterRefused:
        rows = []
    if not rows:
        # Asked for by id, a visible pool may be missing from the answer; it is in the full list.
        rows = await list_rows(api, "listStoragePools", "storagepool")
    for row in rows:
        if text(row, "id") == pool_id:
            return row
    raise StoragePoolNotFound(
        message=f"CloudStack has no storage pool {pool_id}", metadata={"storage_pool": pool_id}
    )


def _nfs_source(row: Row) -> str:
    """``server:/export`` from ipaddress and path, of which either may be an ``nfs://`` URL."""
    for value in (text(row, "path"), text(row, "ipaddress")):
        if value.startswith("nfs://"):
            url = urlsplit(value)
            server, export = url.hostname or "", unquote(url.path)
            break
    else:
        server, export = text(row, "ipaddress"), text(row, "path")
    if not server or not export.startswith("/"):
        raise _unsupported(row, "names no NFS server and export")
    # mount(8) wants an IPv6 address in brackets.
    server = f"[{server}]" if ":" in server and not server.startswith("[") else server
    return f"{server}:{export}"


def _directory(row: Row) -> str:
    path = text(row, "path")
    if not path.startswith("/"):
        raise _unsupported(row, f"has the path {path!r}, which is no absolute directory")
    return path


async def _check_version(api: CloudStackApi, pool: Row) -> None:
    version = await server_version(api)
    numbers = version_numbers(version)
    if numbers and numbers < _MOUNT_POINT_SINCE:
        raise _unsupported(
            pool, f"is a SharedMountPoint, from which CloudStack {version} imports no VM"
        )


async def _host_of(api: CloudStackApi, pool: Row) -> str:
    """The host of a local pool, which its row does not name but by address."""
    hosts = await list_rows(
        api, "listHosts", "host", {"type": "Routing", "zoneid": text(pool, "zoneid")}
    )
    same = [host for host in hosts if text(host, "ipaddress") == text(pool, "ipaddress")]
    if len(same) == 1:
        return text(same[0], "id")
    for host in hosts:
        pools = await list_rows(
            api, "listStoragePools", "storagepool", {"hostid": text(host, "id")}
        )
        if any(text(row, "id") == text(pool, "id") for row in pools):
            return text(host, "id")
    raise _unsupported(pool, "is local to a host that CloudStack does not list")


def _unsupported(row: Row, why: str) -> StoragePoolUnsupported:
    return StoragePoolUnsupported(
        message=f"storage pool {text(row, 'name')} {why}",
        metadata={"storage_pool": text(row, "id"), "type": text(row, "type")},
    )
