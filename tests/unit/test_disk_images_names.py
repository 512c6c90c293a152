"""Image names, and what a pool's description may be."""

from pathlib import Path

import pytest

from services.disk_agent.errors import PoolInvalid
from services.disk_agent.storage.image_names import image_name, is_image_name
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
    ("vm_name", "expected"),
    [
        ("web-1", "web-1_vm-42_disk0.qcow2"),
        ("web 1", "web-1_vm-42_disk0.qcow2"),
        ("a%2fb/c\\d", "a-b-c-d_vm-42_disk0.qcow2"),
        ("Büro äöü", "Buro-aou_vm-42_disk0.qcow2"),
        ("日本", "vm_vm-42_disk0.qcow2"),
        ("..", "vm_vm-42_disk0.qcow2"),
        ("-rf *; $(x) 'q' \"q\"", "rf-x-q-q_vm-42_disk0.qcow2"),
        ("x\ny,z:=", "x-y-z_vm-42_disk0.qcow2"),
    ],
)
def test_a_vm_name_becomes_a_safe_file_name(vm_name: str, expected: str) -> None:
    assert image_name(vm_name, "vm-42", 0) == expected
    assert is_image_name(expected)


def test_long_names_are_cut_before_what_makes_them_unique() -> None:
    name = image_name("n" * 300, "vm-42", 12)
    assert len(name) == 200
    assert name.endswith("n_vm-42_disk12.qcow2")


def test_names_differ_by_moref_and_unit() -> None:
    names = {image_name("web", moref, unit) for moref in ("vm-1", "vm-2") for unit in (0, 1)}
    assert len(names) == 4


@pytest.mark.parametrize(("moref", "unit"), [("", 0), ("///", 0), ("vm-1", -1)])
def test_no_name_without_what_makes_it_unique(moref: str, unit: int) -> None:
    with pytest.raises(ValueError, match="no image name"):
        image_name("web", moref, unit)


@pytest.mark.parametrize(
    "name", ["a/b.qcow2", "../x.qcow2", ".x.qcow2", "x.raw", "x.qcow2 ", "ä.qcow2", "", "-x.qcow2"]
)
def test_other_names_are_no_image_names(name: str) -> None:
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
    assert newest is not None
    assert (newest.source, newest.read_only) == ("filer:/y", True)
    assert mount_at(mounts, Path("/mnt")) is None
