"""Images with the real qemu-img, and pools on real mounts."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.disk_agent.host.commands import HostCommands
from services.disk_agent.storage.errors import (
    ImageExists,
    ImageInvalid,
    ImageLocked,
    ImageNotFound,
    ImageShrinkRefused,
    ImageUnusable,
    PoolFull,
    PoolNotFound,
    PoolReadOnly,
)
from services.disk_agent.storage.images import Images
from services.disk_agent.storage.pool import PoolMount, PoolType
from services.disk_agent.storage.pools import Pools

MIB = 1 << 20


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    path = tmp_path / "pool"
    path.mkdir()
    return path


@pytest.fixture
def images(tmp_path: Path, pool: Path) -> Images:
    commands = HostCommands()
    pools = Pools(commands, tmp_path / "state", nfs_options="rw")
    pools.ensure(PoolMount("p", PoolType.FILESYSTEM, "", pool))
    return Images(commands, pools, tmp_path / "state")


@contextmanager
def held_open(image: Path, tmp_path: Path) -> Iterator[None]:
    """Another process has the image open for writing."""
    socket = tmp_path / "nbd.sock"
    process = subprocess.Popen(["qemu-nbd", "-t", "-f", "qcow2", "-k", str(socket), str(image)])
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait()


def test_a_new_image_is_one_that_cloudstack_accepts(images: Images, pool: Path) -> None:
    image, existed = images.create(pool, "web_vm-1_disk0.qcow2", 10 * MIB + 512)
    assert not existed
    assert image.size_bytes == 10 * MIB + 512
    assert (image.locked, image.backing_file, image.compat) == (False, "", "1.1")
    assert image.allocated_bytes < MIB
    info = json.loads(
        subprocess.check_output(["qemu-img", "info", "--output=json", str(image.path)])
    )
    details = info["format-specific"]["data"]
    assert details["extended-l2"] is False
    assert "data-file" not in details
    assert [path.name for path in pool.iterdir()] == ["web_vm-1_disk0.qcow2"]


def test_creating_again_finds_it_and_another_size_is_refused(images: Images, pool: Path) -> None:
    images.create(pool, "a.qcow2", MIB)
    image, existed = images.create(pool, "a.qcow2", MIB)
    assert existed
    assert image.size_bytes == MIB
    with pytest.raises(ImageExists, match=str(MIB)):
        images.create(pool, "a.qcow2", 2 * MIB)


@pytest.mark.parametrize(
    ("name", "size", "field"),
    [
        ("../a.qcow2", MIB, "name"),
        ("a.raw", MIB, "name"),
        ("a.qcow2", 0, "size_bytes"),
        ("a.qcow2", 1000, "size_bytes"),
    ],
)
def test_bad_names_and_sizes(images: Images, pool: Path, name: str, size: int, field: str) -> None:
    with pytest.raises(ImageInvalid) as refused:
        images.create(pool, name, size)
    assert refused.value.metadata["field"] == field


def test_space_is_promised_to_one_disk_only(images: Images, pool: Path) -> None:
    status = os.statvfs(pool)
    free = status.f_bavail * status.f_frsize
    images.create(pool, "a.qcow2", MIB, expected_bytes=free // 2)
    with pytest.raises(PoolFull) as full:
        images.create(pool, "b.qcow2", MIB, expected_bytes=free // 4 * 3)
    values = {key: int(value) for key, value in full.value.metadata.items()}
    assert values["needed_bytes"] == free // 4 * 3
    # Bytes that the first image has written by now count as used, not as promised.
    assert values["promised_bytes"] == pytest.approx(free // 2, abs=4 * MIB)
    assert not (pool / "b.qcow2").exists()
    images.delete(pool / "a.qcow2")
    images.create(pool, "b.qcow2", MIB, expected_bytes=free // 4 * 3)


def test_an_image_that_somebody_else_deleted_is_promised_nothing(
    images: Images, pool: Path
) -> None:
    status = os.statvfs(pool)
    free = status.f_bavail * status.f_frsize
    images.create(pool, "a.qcow2", MIB, expected_bytes=free // 2)
    # As CloudStack does with the volume of a machine that was imported and destroyed.
    (pool / "a.qcow2").unlink()
    images.create(pool, "b.qcow2", MIB, expected_bytes=free // 4 * 3)


def test_an_image_grows_and_never_shrinks(images: Images, pool: Path) -> None:
    image, _ = images.create(pool, "a.qcow2", MIB)
    assert images.resize(image.path, 3 * MIB).size_bytes == 3 * MIB
    assert images.resize(image.path, 3 * MIB).size_bytes == 3 * MIB
    with pytest.raises(ImageShrinkRefused):
        images.resize(image.path, MIB)


def test_a_locked_image_is_reported_and_not_changed(
    images: Images, pool: Path, tmp_path: Path
) -> None:
    image, _ = images.create(pool, "a.qcow2", MIB)
    with held_open(image.path, tmp_path):
        assert images.inspect(image.path).locked
        assert images.inspect(image.path).size_bytes == MIB
        with pytest.raises(ImageLocked):
            images.check_unlocked(image.path)
        with pytest.raises(ImageLocked):
            images.resize(image.path, 2 * MIB)
        with pytest.raises(ImageLocked) as locked:
            images.delete(image.path)
        assert locked.value.retryable
    assert images.delete(image.path)
    assert not images.delete(image.path)


def test_a_backing_file_is_reported(images: Images, pool: Path) -> None:
    base, _ = images.create(pool, "base.qcow2", MIB)
    top = pool / "top.qcow2"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base.path)]
    subprocess.check_call([*command, str(top)])
    assert images.inspect(top).backing_file == str(base.path)
    with pytest.raises(ImageExists, match="backing file"):
        images.create(pool, "top.qcow2", MIB)


def test_missing_foreign_and_damaged_images(images: Images, pool: Path) -> None:
    with pytest.raises(ImageNotFound):
        images.inspect(pool / "none.qcow2")
    with pytest.raises(PoolNotFound):
        images.delete(Path("/etc/hostname"))
    damaged = pool / "damaged.qcow2"
    damaged.write_bytes(b"no qcow2" * 1000)
    with pytest.raises(ImageUnusable):
        images.inspect(damaged)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_pool_on_a_read_only_mount_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ro"
    path.mkdir()
    subprocess.check_call(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "v2c-test", str(path)])
    try:
        pools = Pools(HostCommands(), tmp_path / "state", nfs_options="rw")
        with pytest.raises(PoolReadOnly, match="Read-only"):
            pools.ensure(PoolMount("p", PoolType.SHARED_MOUNT_POINT, "", path))
        assert pools.list() == []
    finally:
        subprocess.check_call(["umount", str(path)])


def test_the_message_names_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    class Anywhere:
        def root_of(self, image: Path) -> Path:
            return image.parent

    no_folder = tmp_path / "file"
    no_folder.touch()

    with pytest.raises(ImageUnusable, match="cannot be created: Not a directory"):
        Images(HostCommands(), Anywhere(), tmp_path).create(no_folder, "a.qcow2", MIB)
