"""Pools against a mount table in memory: which commands run, and which do not."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from services.disk_agent.host.commands import Completed
from services.disk_agent.host.hypervisor import hypervisor_sign
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
        self.boot_id = "boot-1"
        self.hypervisor = ""
        self.last_id = 30

    def reboot(self) -> None:
        """Mount ids begin anew."""
        self.mounts, self.boot_id, self.last_id = [], self.boot_id + "1", 30

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
        self.last_id += 1
        self.mounts.append(
            Mount(path, source, fstype, "/", tuple(options.split(",")), self.last_id, "0:57")
        )


@pytest.fixture
def table() -> MountTable:
    return MountTable()


@pytest.fixture
def start(table: MountTable, tmp_path: Path) -> Callable[[], Pools]:
    """A function that starts an agent's Pools; each call uses the same state folder."""
    return lambda: Pools(
        table,
        tmp_path / "state",
        nfs_options="rw,hard",
        mounts=lambda: list(table.mounts),
        boot_id=lambda: table.boot_id,
        hypervisor=lambda: table.hypervisor,
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


def umounts(table: MountTable) -> list[Sequence[str]]:
    return [command for command in table.commands if command[0] == "umount"]


@pytest.mark.parametrize("ensured_again", [True, False])
def test_after_a_reboot_the_same_export_at_the_same_path_is_somebody_elses(
    start: Callable[[], Pools], table: MountTable, tmp_path: Path, ensured_again: bool
) -> None:
    start().ensure(nfs(tmp_path / "p1"))
    table.reboot()
    table.add("filer:/export/p1", tmp_path / "p1")
    pools = start()
    if ensured_again:
        assert not pools.ensure(nfs(tmp_path / "p1")).mounted_by_agent
    assert not pools.get("p1").mounted_by_agent
    pools.release("p1")
    assert umounts(table) == []
    assert len(table.mounts) == 1


@pytest.mark.parametrize("ensured_again", [True, False])
def test_a_mount_that_replaced_the_agents_own_is_somebody_elses(
    start: Callable[[], Pools], table: MountTable, tmp_path: Path, ensured_again: bool
) -> None:
    pools = start()
    assert pools.ensure(nfs(tmp_path / "p1")).mounted_by_agent
    table.mounts.clear()
    table.add("filer:/export/p1", tmp_path / "p1")
    if ensured_again:
        assert not pools.ensure(nfs(tmp_path / "p1")).mounted_by_agent
    pools.release("p1")
    assert umounts(table) == []


def test_a_mount_on_top_of_the_agents_own_is_not_unmounted(
    start: Callable[[], Pools], table: MountTable, tmp_path: Path
) -> None:
    pools = start()
    pools.ensure(nfs(tmp_path / "p1"))
    table.add("filer:/export/p1", tmp_path / "p1")
    pools.release("p1")
    assert umounts(table) == []


def test_a_mount_that_an_earlier_version_recorded_is_not_unmounted(
    start: Callable[[], Pools], table: MountTable, tmp_path: Path
) -> None:
    start().ensure(nfs(tmp_path / "p1"))
    file = tmp_path / "state" / "pools.json"
    entries = json.loads(file.read_text())
    for entry in entries:
        assert entry.pop("own_mount")["boot_id"] == "boot-1"
        assert entry["mounted_by_agent"] is True
    file.write_text(json.dumps(entries))
    pools = start()
    assert not pools.get("p1").mounted_by_agent
    assert not pools.ensure(nfs(tmp_path / "p1")).mounted_by_agent
    pools.release("p1")
    assert umounts(table) == []


def test_a_pool_that_has_ended_to_be_the_agents_own_passes_nothing_on(
    start: Callable[[], Pools], table: MountTable, tmp_path: Path
) -> None:
    start().ensure(nfs(tmp_path / "p1"))
    table.reboot()
    pools = start()
    assert pools.ensure(nfs(tmp_path / "p1", id="p2")).mounted_by_agent
    pools.release("p1")
    assert pools.get("p2").mounted_by_agent
    pools.release("p2")
    assert table.mounts == []


def test_a_host_that_runs_virtual_machines_keeps_its_mounts(
    start: Callable[[], Pools], table: MountTable, tmp_path: Path
) -> None:
    pools = start()
    pools.ensure(nfs(tmp_path / "p1"))
    # libvirt was started after the mount was made.
    table.hypervisor = "/run/libvirt"
    pools.release("p1")
    assert umounts(table) == []
    assert pools.list() == []
    assert not pools.ensure(nfs(tmp_path / "p1")).mounted_by_agent


@pytest.mark.parametrize("sign", ["run/libvirt", "etc/cloudstack/agent/agent.properties"])
def test_libvirt_or_cloudstacks_agent_show_a_host_that_runs_machines(
    tmp_path: Path, sign: str
) -> None:
    assert hypervisor_sign(tmp_path) == ""
    (tmp_path / sign).mkdir(parents=True)
    assert hypervisor_sign(tmp_path) == f"/{sign}"


def test_nothing_is_unmounted_while_the_agent_works_there(
    start: Callable[[], Pools], table: MountTable, tmp_path: Path
) -> None:
    pools = start()
    pools.ensure(nfs(tmp_path / "p1"))
    with pools.using(tmp_path / "p1"), pytest.raises(PoolBusy, match="a call is at work"):
        pools.release("p1")
    asked: list[Path] = []

    def at_work(directory: Path) -> str:
        asked.append(directory)
        return "transfer t-1"

    with pytest.raises(PoolBusy, match="transfer t-1 is at work"):
        pools.release("p1", at_work)
    assert (asked, umounts(table)) == ([tmp_path / "p1"], [])
    assert pools.get("p1").mounted_by_agent
    pools.release("p1")
    assert table.mounts == []
