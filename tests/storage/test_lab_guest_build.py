"""Micro-guests: how they are built, and that they boot where VMware's do and not on virtio."""

import json
import subprocess
from pathlib import Path

import pytest

from lab.guest import GuestBuildError, MissingToolError, build_micro_guest
from lab.guest.boot import boot
from lab.guest.kernel import find_kernel
from lab.guest.layout import Firmware

MIB = 1 << 20


def partitions(image: Path) -> list[dict[str, int]]:
    table = json.loads(subprocess.check_output(["/usr/sbin/sfdisk", "--json", str(image)]))
    found: list[dict[str, int]] = table["partitiontable"]["partitions"]
    return found


@pytest.mark.parametrize(("firmware", "root"), [("bios", 1), ("uefi", 2)])
def test_a_guest_is_a_small_sound_disk_with_room_to_write(
    tmp_path: Path, firmware: Firmware, root: int
) -> None:
    guest = build_micro_guest(tmp_path / "guest.raw", firmware, cache=tmp_path / "cache")
    status = guest.image.stat()
    assert status.st_size == 256 * MIB
    assert status.st_blocks * 512 < 40 * MIB
    start, length = guest.scratch_area
    assert length >= 48 * MIB
    assert start + length <= status.st_size
    found = partitions(guest.image)
    assert all((each["start"] + each["size"]) * 512 <= start for each in found)
    offset = found[root - 1]["start"] * 512
    subprocess.check_call(
        ["/usr/sbin/e2fsck", "-fn", f"{guest.image}?offset={offset}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_a_second_guest_comes_from_the_cache_and_is_the_same(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = build_micro_guest(tmp_path / "a.raw", cache=cache)
    kept = list(cache.iterdir())
    kept[0].chmod(0o400)
    inode = kept[0].stat().st_ino
    second = build_micro_guest(tmp_path / "b.raw", cache=cache)
    assert [path.stat().st_ino for path in cache.iterdir()] == [inode]
    subprocess.check_call(["cmp", str(first.image), str(second.image)])
    assert second.image.stat().st_blocks * 512 < 40 * MIB
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.raw", "b.raw", "cache"]


def test_a_missing_program_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("lab.guest.tools._SEARCH", str(tmp_path))
    with pytest.raises(MissingToolError, match="busybox-static") as missing:
        build_micro_guest(tmp_path / "guest.raw", cache=tmp_path / "cache")
    assert missing.value.package == "busybox-static"
    assert not (tmp_path / "guest.raw").exists()


def test_a_failed_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.guest.build._EXT4_FEATURES", "no_such_feature")
    with pytest.raises(GuestBuildError, match="no_such_feature"):
        build_micro_guest(tmp_path / "guest.raw", cache=tmp_path / "cache")
    assert not (tmp_path / "guest.raw").exists()
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_host_without_a_kernel_gets_the_package_named(tmp_path: Path) -> None:
    with pytest.raises(MissingToolError, match="linux-image-amd64"):
        find_kernel(tmp_path, tmp_path)


def test_the_newest_kernel_is_taken(tmp_path: Path) -> None:
    for version in ("6.1.0-9-amd64", "6.1.0-56-amd64"):
        (tmp_path / f"vmlinuz-{version}").touch()
        (tmp_path / f"config-{version}").touch()
        (tmp_path / version).mkdir()
        (tmp_path / version / "modules.dep").touch()
    (tmp_path / "vmlinuz-7.0.0").touch()
    assert find_kernel(tmp_path, tmp_path).version == "6.1.0-56-amd64"


@pytest.mark.slow
def test_it_boots_on_vmwares_adapter_and_not_on_virtio(tmp_path: Path) -> None:
    guest = build_micro_guest(tmp_path / "guest.raw")
    on_vmware = boot(guest.image, "pvscsi", image_format="raw")
    assert on_vmware.booted, on_vmware.console
    assert "VMware Tools are installed" in on_vmware.console
    on_virtio = boot(guest.image, "virtio-blk", image_format="raw")
    assert not on_virtio.booted
    assert "no root device" in on_virtio.console
