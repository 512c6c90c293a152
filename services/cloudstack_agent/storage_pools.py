"""Primary storage pools as a storage host mounts them to write images."""

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

# Ubuntu hosts have lost locks on NFSv4 mounts, and flushes of QCOW2 images failed with EIO.
UBUNTU_NFS_OPTIONS: Final = (
    "rw,relatime,vers=3,rsize=1048576,wsize=1048576,hard,proto=tcp,timeo=600,retrans=2"
)
# CloudStack's KVM agent mounts pools here: on a KVM host its mount is found and used.
_MOUNT_ROOT: Final = "/mnt"
# Earlier versions answer importVm from such pools with "Disk not found or is invalid".
_MOUNT_POINT_SINCE: Final = (4, 22, 1)


@dataclass(frozen=True)
class NfsOptions:
    """Chooses the options of an NFS mount.

    `override` is the operator's choice (V2C_NFS_MOUNT_OPTS), empty if there is none; `on_ubuntu`
    is true when the storage hosts run Ubuntu.
    """

    override: str
    on_ubuntu: bool

    def choose(self, pool_options: str) -> str:
        """The operator's options, else Ubuntu's, else those that CloudStack has for the pool."""
        if self.override:
            return self.override
        return UBUNTU_NFS_OPTIONS if self.on_ubuntu else pool_options


@dataclass(frozen=True)
class StoragePool:
    """A pool as a storage host mounts it.

    `source` is ``server:/export``. For a pool that is not mounted `source` and `path` are both the
    directory, and there are no mount options. `import_source` is importVm's parameter, `host_id`
    the host of a local pool.
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
    """How to mount a pool: source, path and mount options.

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
        # A list by id may lack a pool that the account may see; the full list has it.
        rows = await list_rows(api, "listStoragePools", "storagepool")
    for row in rows:
        if text(row, "id") == pool_id:
            return row
    raise StoragePoolNotFound(
        message=f"CloudStack has no storage pool {pool_id}", metadata={"storage_pool": pool_id}
    )


def _nfs_source(row: Row) -> str:
    """``server:/export``, from ipaddress and path, either of which may be an ``nfs://`` URL."""
    for value in (text(row, "path"), text(row, "ipaddress")):
        if value.startswith("nfs://"):
            url = urlsplit(value)
            server, export = url.hostname or "", unquote(url.path)
            break
    else:
        server, export = text(row, "ipaddress"), text(row, "path")
    if not server or not export.startswith("/"):
        raise _unsupported(row, "names no NFS server and export")
    # mount(8) requires brackets around an IPv6 address.
    server = f"[{server}]" if ":" in server and not server.startswith("[") else server
    return f"{server}:{export}"


def _directory(row: Row) -> str:
    path = text(row, "path")
    if not path.startswith("/"):
        raise _unsupported(row, f"has the path {path!r}, which is not absolute")
    return path


async def _check_version(api: CloudStackApi, pool: Row) -> None:
    version = await server_version(api)
    numbers = version_numbers(version)
    if numbers and numbers < _MOUNT_POINT_SINCE:
        raise _unsupported(
            pool, f"is a SharedMountPoint, from which CloudStack {version} imports no VM"
        )


async def _host_of(api: CloudStackApi, pool: Row) -> str:
    """The id of a local pool's host; the pool's row has only the host's address."""
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
