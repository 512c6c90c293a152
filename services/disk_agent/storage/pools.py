"""Primary storage pools on this host: mounted where needed, and unmounted again.

The agent unmounts only a mount that it made itself, only while it has no work in the pool, and
never on a host with libvirt, where CloudStack uses the same path. Its pools and mounts are stored
in a file, so that a restarted agent knows them.
"""

import os
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import structlog

from services.disk_agent.host.commands import Commands
from services.disk_agent.host.errors import ToolTimeout
from services.disk_agent.host.hypervisor import hypervisor_sign
from services.disk_agent.host.state_file import read_state, write_state
from services.disk_agent.storage.errors import (
    PoolBusy,
    PoolExists,
    PoolMissing,
    PoolMountFailed,
    PoolNotFound,
    PoolPathTaken,
    PoolReadOnly,
)
from services.disk_agent.storage.mount_table import Mount, mount_at, parse_mountinfo
from services.disk_agent.storage.pool import OwnMount, Pool, PoolMount, PoolType, checked

_MOUNT_SECONDS = 60.0
_UNMOUNT_SECONDS = 30.0
_NFS_TYPES = ("nfs", "nfs4")

_log = structlog.stdlib.get_logger(__name__)


def read_mounts() -> list[Mount]:
    """This process's mounts now."""
    return parse_mountinfo(Path("/proc/self/mountinfo").read_text())


def read_boot_id() -> str:
    """What differs after each boot of the host."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _nothing_at_work(_directory: Path) -> str:
    return ""


class Pools:
    """The pools of this agent. Methods block, and may be called from several threads."""

    def __init__(
        self,
        commands: Commands,
        state_dir: Path,
        *,
        nfs_options: str,
        mounts: Callable[[], list[Mount]] = read_mounts,
        boot_id: Callable[[], str] = read_boot_id,
        hypervisor: Callable[[], str] = hypervisor_sign,
    ) -> None:
        """``nfs_options`` are for pools without options (see `pool.default_nfs_options`).

        ``hypervisor`` names the evidence that virtual machines run on this host, "" for none.
        """
        self._commands = commands
        self._state_file = state_dir / "pools.json"
        self._nfs_options = nfs_options
        self._mounts = mounts
        self._boot_id = boot_id()
        self._hypervisor = hypervisor
        self._lock = threading.Lock()
        # By directory: how many calls work with images there at the moment.
        self._uses: Counter[Path] = Counter()
        self._known = self._load()

    def ensure(self, wanted: PoolMount) -> Pool:
        """Mount a pool if needed and check that it is writable; can be repeated.

        An existing mount of the same export is reused, also at another path. Raises PoolInvalid,
        PoolExists, PoolPathTaken, PoolMissing, PoolReadOnly, PoolMountFailed or ToolMissing.
        """
        wanted = checked(wanted)
        with self._lock:
            known = self._known.get(wanted.id)
            if known is not None and _identity(known.mount) != _identity(wanted):
                raise PoolExists(
                    message=f"pool {wanted.id} is {known.mount.source} at {known.mount.path}, "
                    f"not {wanted.source} at {wanted.path}"
                )
            own: OwnMount | None = None
            if wanted.type is PoolType.NETWORK_FILESYSTEM:
                path, mounted = self._ensure_mounted(wanted)
                if mounted:
                    own = self._identified(path)
                elif known is not None and known.path == path:
                    own = self._still_own(known)
            else:
                path, mounted = wanted.path, False
            try:
                _check_directory(path)
            except (PoolMissing, PoolReadOnly):
                # A pool that was refused is not known, so nothing would unmount it later.
                if mounted and known is None:
                    self._unmount(path)
                raise
            pool = _measured(wanted, path, own)
            self._known[wanted.id] = pool
            self._save()
        return pool

    def get(self, pool_id: str) -> Pool:
        """A pool with its free space now. Raises PoolNotFound or PoolMissing."""
        with self._lock:
            known = self._known.get(pool_id)
        if known is None:
            raise PoolNotFound(message=f"pool {pool_id!r} has not been made reachable here")
        self._check_mounted(known)
        return _measured(known.mount, known.path, self._still_own(known))

    def list(self) -> list[Pool]:
        """The pools made reachable; one that is not mounted any more has 0 bytes."""
        with self._lock:
            known = list(self._known.values())
        pools = []
        for pool in known:
            try:
                pools.append(self.get(pool.mount.id))
            except PoolMissing:
                pools.append(Pool(pool.mount, pool.path, None, 0, 0))
        return pools

    @contextmanager
    def using(self, directory: Path) -> Iterator[None]:
        """Work with images in a directory: no pool there is unmounted meanwhile."""
        with self._lock:
            self._uses[directory] += 1
        try:
            yield
        finally:
            with self._lock:
                self._uses[directory] -= 1
                if not self._uses[directory]:
                    del self._uses[directory]

    def release(self, pool_id: str, at_work: Callable[[Path], str] = _nothing_at_work) -> None:
        """Forget a pool, and unmount it if this agent made its mount and no other pool is there.

        ``at_work`` names what works in a directory. On a host that runs virtual machines the mount
        stays: libvirt may have adopted it, and would write to the root disk after an unmount.
        An unknown pool is no error. Raises PoolBusy.
        """
        with self._lock:
            known = self._known.get(pool_id)
            if known is None:
                return
            shared = [
                other
                for other in self._known.values()
                if other.path == known.path and other.mount.id != pool_id
            ]
            if known.mounted_by_agent and not shared:
                self._unmount_own(known, at_work)
            del self._known[pool_id]
            for heir in shared[:1] if self._still_own(known) is not None else []:
                self._known[heir.mount.id] = replace(heir, own=known.own)
            self._save()
        _log.info("pool released", action="pool.released", pool=pool_id)

    def root_of(self, image: Path) -> Path:
        """The directory of the pool in whose root an image lies.

        Raises PoolNotFound or PoolMissing.
        """
        with self._lock:
            known = [pool for pool in self._known.values() if pool.path == image.parent]
        if not known:
            raise PoolNotFound(
                message=f"{image} does not lie in the root of a pool that is reachable here"
            )
        self._check_mounted(known[0])
        return known[0].path

    def _ensure_mounted(self, wanted: PoolMount) -> tuple[Path, bool]:
        """The path where the export is mounted, and whether this call mounted it."""
        mounts = self._mounts()
        there = mount_at(mounts, wanted.path)
        if there is not None:
            if _same_export(there, wanted.source):
                return wanted.path, False
            raise PoolPathTaken(
                message=f"{there.source} is mounted at {wanted.path}, not {wanted.source}",
                metadata={"mounted": there.source},
            )
        for mount in mounts:
            visible = mount_at(mounts, mount.path) is mount
            if visible and _same_export(mount, wanted.source) and not mount.read_only:
                _log.info(
                    "mount reused", action="pool.reused", pool=wanted.id, path=str(mount.path)
                )
                return mount.path, False
        self._mount(wanted)
        return wanted.path, True

    def _mount(self, wanted: PoolMount) -> None:
        wanted.path.mkdir(parents=True, exist_ok=True)
        options = wanted.options or self._nfs_options
        command = ["mount", "-t", "nfs", "-o", options, "--", wanted.source, str(wanted.path)]
        try:
            done = self._commands.run(command, timeout_seconds=_MOUNT_SECONDS)
        except ToolTimeout as error:
            raise PoolMountFailed(
                message=f"mounting {wanted.source} did not end in {_MOUNT_SECONDS:.0f} seconds",
                metadata={"source": wanted.source},
            ) from error
        if done.status != 0:
            detail = done.stderr.strip()[-300:]
            raise PoolMountFailed(
                message=f"mounting {wanted.source} at {wanted.path} failed: {detail}",
                metadata={"source": wanted.source, "detail": detail},
            )
        _log.info(
            "pool mounted",
            action="pool.mounted",
            pool=wanted.id,
            source=wanted.source,
            path=str(wanted.path),
            options=options,
        )

    def _unmount_own(self, pool: Pool, at_work: Callable[[Path], str]) -> None:
        """Unmount what this agent mounted; a mount that may be anybody else's stays."""
        path = pool.path
        kept = self._hypervisor()
        if not kept and self._still_own(pool) is None:
            kept = "it is not the mount that this agent made"
        if kept:
            _log.info("the mount stays", action="pool.kept", path=str(path), why=kept)
            return
        busy = at_work(path) or ("a call" if self._uses[path] else "")
        if busy:
            raise PoolBusy(
                message=f"{path} cannot be unmounted: {busy} is at work there",
                metadata={"path": str(path)},
            )
        self._unmount(path)

    def _identified(self, path: Path) -> OwnMount | None:
        """The mount that is seen at a path now, by what no later mount there has too."""
        there = mount_at(self._mounts(), path)
        return None if there is None else OwnMount(self._boot_id, there.id, there.device)

    def _still_own(self, pool: Pool) -> OwnMount | None:
        """The mount that this agent made for a pool, if that very mount is what is there now."""
        if pool.own is None or not self._seen(pool):
            return None
        return pool.own if pool.own == self._identified(pool.path) else None

    def _unmount(self, path: Path) -> None:
        done = self._commands.run(["umount", "--", str(path)], timeout_seconds=_UNMOUNT_SECONDS)
        if done.status != 0:
            raise PoolBusy(
                message=f"{path} cannot be unmounted: {done.stderr.strip()[-300:]}",
                metadata={"path": str(path)},
            )

    def _check_mounted(self, pool: Pool) -> None:
        if not self._seen(pool):
            raise PoolMissing(
                message=f"{pool.mount.source} is not mounted at {pool.path} any more",
                metadata={"path": str(pool.path)},
                hint="call EnsurePool to mount it again; look in the kernel's log for the cause",
            )

    def _seen(self, pool: Pool) -> bool:
        """Whether the pool is still mounted: writing must not fill an empty mount point."""
        if pool.mount.type is not PoolType.NETWORK_FILESYSTEM:
            return pool.path.is_dir()
        there = mount_at(self._mounts(), pool.path)
        return there is not None and _same_export(there, pool.mount.source)

    def _load(self) -> dict[str, Pool]:
        content = read_state(self._state_file)
        entries = content if isinstance(content, list) else []
        pools = (_from_wire(entry) for entry in entries)
        return {pool.mount.id: pool for pool in pools}

    def _save(self) -> None:
        write_state(self._state_file, [_to_wire(pool) for pool in self._known.values()])


def _identity(mount: PoolMount) -> tuple[PoolType, str, Path]:
    return mount.type, mount.source, mount.path


def _same_export(mount: Mount, source: str) -> bool:
    return mount.fstype in _NFS_TYPES and mount.source.rstrip("/") == source.rstrip("/")


def _check_directory(path: Path) -> None:
    if not path.is_dir():
        raise PoolMissing(
            message=f"{path} is not a directory on this host",
            metadata={"path": str(path)},
        )
    try:
        # access(2) may allow root what the export refuses; only creating a file shows it.
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise PoolReadOnly(
            message=f"{path} cannot be written to: {error.strerror}", metadata={"path": str(path)}
        ) from error


def _measured(mount: PoolMount, path: Path, own: OwnMount | None) -> Pool:
    status = os.statvfs(path)
    return Pool(
        mount=mount,
        path=path,
        own=own,
        size_bytes=status.f_blocks * status.f_frsize,
        free_bytes=status.f_bavail * status.f_frsize,
    )


def _to_wire(pool: Pool) -> dict[str, object]:
    return {
        "id": pool.mount.id,
        "type": pool.mount.type.value,
        "source": pool.mount.source,
        "wanted_path": str(pool.mount.path),
        "options": pool.mount.options,
        "path": str(pool.path),
        # Read by versions that know no more than this.
        "mounted_by_agent": pool.mounted_by_agent,
        "own_mount": asdict(pool.own) if pool.own is not None else None,
    }


def _from_wire(entry: Mapping[str, Any]) -> Pool:
    mount = PoolMount(
        id=entry["id"],
        type=PoolType(entry["type"]),
        source=entry["source"],
        path=Path(entry["wanted_path"]),
        options=entry["options"],
    )
    # Earlier versions wrote only that the mount was theirs, which a reboot makes untrue.
    own = entry.get("own_mount")
    made = OwnMount(own["boot_id"], own["mount_id"], own["device"]) if own else None
    return Pool(mount, Path(entry["path"]), made, 0, 0)
