"""Which image names and which descriptions of a pool are valid."""

from pathlib import Path

import pytest

from services.disk_agent.storage.errors import PoolInvalid
from services.disk_agent.storage.image_names import is_image_name
from services.disk_agent.storage.mount_table import mount_at, parse_mountinfo
from services.disk_agent.storage.pool import (
    UBUNTU_NFS_OPTIONS,
    PoolMount,
    PoolType,
    checked,
    default_nfs_options,
    nfs_source,
)


@pytest.mark.parametrize(
    "name",
    [
        "a/b.qcow2",
        "../x.qcow2",
        ".x.qcow2",
        "x.raw",
        "x.qcow2 ",
        "x.qcow2\n",
        "ä.qcow2",
        "",
        "-x.qcow2",
        "n" * 200 + ".qcow2",
    ],
)
def test_invalid_image_names_are_refused(name: str) -> None:
    assert not is_image_name(name)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("nfs://filer/export/p1/", "filer:/export/p1"),
        ("filer:/export/p1", "filer:/export/p1"),
        ("filer:/", "filer:/"),
        ("[fd00::1]:/x/", "[fd00::1]:/x"),
    ],
)
def test_nfs_sources_have_one_form(given: str, expected: str) -> None:
    assert nfs_source(given) == expected


@pytest.mark.parametrize(
    ("field", "pool"),
    [
        ("id", PoolMount("../x", PoolType.FILESYSTEM, "/x", Path("/x"))),
        ("path", PoolMount("p", PoolType.FILESYSTEM, "x", Path("x"))),
        ("path", PoolMount("p", PoolType.FILESYSTEM, "x", Path("/a/../b"))),
        ("source", PoolMount("p", PoolType.NETWORK_FILESYSTEM, "/no-server", Path("/x"))),
        ("source", PoolMount("p", PoolType.NETWORK_FILESYSTEM, "-o:/x y", Path("/x"))),
        ("options", PoolMount("p", PoolType.NETWORK_FILESYSTEM, "h:/x", Path("/x"), "rw;reboot")),
    ],
)
def test_a_bad_pool_is_refused_with_the_field(field: str, pool: PoolMount) -> None:
    with pytest.raises(PoolInvalid) as refused:
        checked(pool)
    assert refused.value.metadata == {"field": f"pool.{field}"}


def test_nfs_options_depend_on_the_distribution_and_can_be_overridden() -> None:
    assert default_nfs_options('NAME="Ubuntu"\nID=ubuntu\n', {}) == UBUNTU_NFS_OPTIONS
    assert "vers=3" not in default_nfs_options("ID=debian\nID_LIKE=ubuntu\n", {})
    assert default_nfs_options("ID=ubuntu", {"V2C_NFS_MOUNT_OPTS": "ro,vers=4.2"}) == "ro,vers=4.2"


def test_mountinfo_is_read_with_its_escapes_and_the_newest_mount_counts() -> None:
    mounts = parse_mountinfo(
        "36 35 98:0 / /mnt/a\\040b rw,noatime master:1 - nfs4 filer:/x\\0401 rw,vers=4.2\n"
        "37 35 0:31 /sub /mnt/b rw - tmpfs tmpfs rw\n"
        "38 37 0:32 / /mnt/b ro,nosuid - nfs filer:/y rw\n"
    )
    first, newest = mount_at(mounts, Path("/mnt/a b")), mount_at(mounts, Path("/mnt/b"))
    assert first is not None
    assert (first.source, first.fstype, first.read_only) == ("filer:/x 1", "nfs4", False)
    assert (first.id, first.device) == (36, "98:0")
    assert newest is not None
    assert (newest.source, newest.read_only) == ("filer:/y", True)
    assert mount_at(mounts, Path("/mnt")) is None
