"""Pools against a mount table in memory: which commands run, and which do not."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from services.disk_agent.host.commands import Completed
from services.disk_agent.storage.errors import (
    PoolBusy,
    PoolExists,
    PoolMissing,
    PoolMountFailed,
    PoolNotFound,
    PoolPathTaken,
)
from services.disk_agent.storage.mount_table import Mount
from services.disk_agent.storage.pool import PoolMount, PoolType
from services.disk_agent.storage.pools import Pools


class MountTable:
    """Runs mount and umount on a mount table in memory."""

    def __init__(self) -> None:
        self.mounts: list[Mount] = []
        self.commands: list[Sequence[str]] = []
        self.refusal = ""

    def run(self, command: Sequence[str], *, timeout_seconds: float) -> Completed:
        self.commands.append(command)
        if self.refusal:
            return Completed(32, "", self.refusal)
        if command[0] == "mount":
            self.add(command[-2], Path(command[-1]))
        else:
            self.mounts = [each for each in self.mounts if each.path != Path(command[-1])]
        return Completed(0)

    def add(self, source: str, path: Path, fstype: str = "nfs4", options: str = "rw") -> None:
        self.mounts.append(Mount(path, source, fstype, "/", tuple(options.split(","))))


@pytest.fixture
def table() -> MountTable:
    return MountTable()


@pytest.fixture
def start(table: MountTable, tmp_path: Path) -> Callable[[], Pools]:
    """A function that starts an agent's Pools; each call uses the same state folder."""
    return lambda: Pools(
        table, tmp_path / "state", nfs_options="rw,hard", mounts=lambda: list(table.mounts)
    )


def nfs(path: Path, id: str = "p1", source: str = "filer:/export/p1") -> PoolMount:
    return PoolMount(id, PoolType.NETWORK_FILESYSTEM, source, path)


def test_an_export_is_mounted_once_with_the_default_options(
    start: Callable[[], Pools], table: MountTable, tmp_path: Path
) -> None:
    pools = start()
    first = pools.ensure(nfs(tmp_path / "p1"))
    second = pools.ensure(nfs(tmp_path / "p1", source="nfs://filer/export/p1/"))
    assert table.commands == [
        ("mount -t nfs -o rw,hard -- filer:/export/p1 " + str(tmp_path / "p1")).split()
    ]
    assert first.mounted_by_agent
    assert second.mounted_by_agent
    assert first.free_bytes > 0


def test_a_pools_own_options_go_before_the_defaults(
    start: Callable[[], Pools], table: MountTable, tmp_path: Path
) -> None:
    wanted = PoolMount("p", PoolType.NETWORK_FILESYSTEM, "h:/x", tmp_path / "p", "vers=4.1")
    start().ensure(wanted)
    assert table.commands[0][4] == "vers=4.1"


def test_an_existing_mount_is_reused_wherever_it_is_and_never_unmounted(
    start: Callable[[], Pools], table: MountTable, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "cloudstack-agent"
    elsewhere.mkdir()
    table.add("filer:/export/p1/", elsewhere)
    pools = start()
    pool = pools.ensure(nfs(tmp_path / "p1"))
    assert pool.path == elsewhere
    assert not pool.mounted_by_agent
    pools.release("p1")
    assert table.commands == []


def test_a_read_only_mount_elsewhere_is_not_reused(
    start: Callable[[], Pools], table: MountTable, tmp_path: Path
) -> None:
    table.add("filer:/export/p1", tmp_path / "backup", options="ro")
    assert start().ensure(nfs(tmp_path / "p1")).path == tmp_path / "p1"


def test_another_source_at_the_path_is_an_error(
    start: Callable[[], Pools], table: MountTable, tmp_path: Path
) -> None:
    table.add("other:/export", tmp_path / "p1")
    with pytest.raises(PoolPathTaken) as refused:
        start().ensure(nfs(tmp_path / "p1"))
    assert refused.value.metadata["mounted"] == "other:/export"
    assert table.commands == []


def test_a_failed_mount_is_reported_with_mounts_message(
    start: Callable[[], Pools], table: MountTable, tmp_path: Path
) -> None:
    table.refusal = "mount.nfs: access denied by server"
    pools = start()
    with pytest.raises(PoolMountFailed, match="access denied") as failed:
        pools.ensure(nfs(tmp_path / "p1"))
    assert failed.value.retryable
    assert pools.list() == []


def test_a_restarted_agent_unmounts_what_it_mounted_before(
    start: Callable[[], Pools], table: MountTable, tmp_path: Path
) -> None:
    start().ensure(nfs(tmp_path / "p1"))
    restarted = start()
    assert [pool.mount.id for pool in restarted.list()] == ["p1"]
    restarted.release("p1")
    assert table.commands[-1] == ["umount", "--", str(tmp_path / "p1")]
    assert start().list() == []
    restarted.release("p1")


def test_a_busy_pool_stays_known(
    start: Callable[[], Pools], table: MountTable, tmp_path: Path
) -> None:
    pools = start()
    pools.ensure(nfs(tmp_path / "p1"))
    table.refusal = "umount: target is busy"
    with pytest.raises(PoolBusy, match="busy"):
        pools.release("p1")
    assert pools.get("p1").mounted_by_agent


def test_a_mount_that_two_pools_use_is_unmounted_with_the_last(
    start: Callable[[], Pools], table: MountTable, tmp_path: Path
) -> None:
    pools = start()
    pools.ensure(nfs(tmp_path / "p1"))
    pools.ensure(nfs(tmp_path / "p1", id="p2"))
    pools.release("p1")
    assert len(table.mounts) == 1
    pools.release("p2")
    assert table.mounts == []


def test_nothing_is_written_below_a_mount_point_whose_mount_has_gone(
    start: Callable[[], Pools], table: MountTable, tmp_path: Path
) -> None:
    pools = start()
    pools.ensure(nfs(tmp_path / "p1"))
    table.mounts.clear()
    with pytest.raises(PoolMissing, match="not mounted"):
        pools.root_of(tmp_path / "p1" / "a.qcow2")
    assert pools.list()[0].free_bytes == 0


def test_an_id_stands_for_one_source(start: Callable[[], Pools], tmp_path: Path) -> None:
    pools = start()
    pools.ensure(nfs(tmp_path / "p1"))
    with pytest.raises(PoolExists):
        pools.ensure(nfs(tmp_path / "p1", source="filer:/export/other"))


def test_a_local_pool_needs_its_directory(start: Callable[[], Pools], tmp_path: Path) -> None:
    pools = start()
    wanted = PoolMount("p", PoolType.SHARED_MOUNT_POINT, "", tmp_path / "shared")
    with pytest.raises(PoolMissing, match="not a directory"):
        pools.ensure(wanted)
    wanted.path.mkdir()
    pool = pools.ensure(wanted)
    assert not pool.mounted_by_agent
    assert pools.root_of(wanted.path / "a.qcow2") == wanted.path


def test_only_files_in_a_pools_root_belong_to_it(
    start: Callable[[], Pools], tmp_path: Path
) -> None:
    pools = start()
    pools.ensure(PoolMount("p", PoolType.FILESYSTEM, "", tmp_path))
    for path in (Path("/etc/passwd"), tmp_path / "sub" / "a.qcow2", tmp_path):
        with pytest.raises(PoolNotFound):
            pools.root_of(path)
    with pytest.raises(PoolNotFound):
        pools.get("other")
