"""Images whose writer was killed or whose storage failed: some are repaired, others refused."""

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from services.disk_agent.transfer_failures import TargetUnusable, TransferCancelled
from services.disk_agent.worker.metadata_repair import repair
from services.disk_agent.worker.qemu_nbd import TargetServer
from tests.rigs.disk.transfer import BLOCK, create_image

# The QCOW2 header's table offsets, and where an entry's host offset is (qemu, docs/interop/qcow2).
_L1_TABLE_AT = 40
_REFCOUNT_TABLE_AT = 48
_OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Two clusters of data, 1 and 2."""
    path = tmp_path / "block.qcow2"
    create_image(path, 16 * BLOCK)
    subprocess.run(_qemu_io(path, "write -P 1 0 64k", "write -P 2 64k 64k"), check=True)
    return path


def test_a_cluster_in_use_that_is_counted_as_free_is_counted_anew(image: Path) -> None:
    _set_refcount(image, _first_entry(image) // BLOCK, 0)
    repair(image)
    assert _checked(image) == 0
    # A new cluster does not overwrite the one whose count was lost.
    subprocess.run(_qemu_io(image, "write -P 3 128k 64k"), check=True)
    _assert_content(image)


def test_a_leaked_cluster_is_freed(image: Path) -> None:
    unused = _first_entry(image) // BLOCK + 2
    with image.open("r+b") as file:
        file.truncate((unused + 1) * BLOCK)
    _set_refcount(image, unused, 1)
    assert _checked(image) == 3
    repair(image)
    assert _checked(image) == 0
    _assert_content(image)


def _two_in_one(image: Path) -> None:
    with image.open("r+b") as file:
        file.seek(_word(image, _word(image, _L1_TABLE_AT)) & _OFFSET_MASK)
        file.write(file.read(8))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_two_in_one, "TARGET_CORRUPT"),
        (lambda image: image.write_bytes(b"no QCOW2"), "TARGET_UNCHECKED"),
    ],
)
def test_other_damage_is_refused_and_nothing_is_changed(
    image: Path, damage: Callable[[Path], None], reason: str
) -> None:
    damage(image)
    before = image.read_bytes()
    with pytest.raises(TargetUnusable) as caught:
        repair(image)
    assert caught.value.reason == reason
    assert caught.value.hint
    assert image.read_bytes() == before


def test_an_image_that_is_open_elsewhere_is_left_alone(image: Path, tmp_path: Path) -> None:
    with TargetServer(image, tmp_path, writable=True):
        repair(image)
    _assert_content(image)


def _word(image: Path, offset: int) -> int:
    with image.open("rb") as file:
        file.seek(offset)
        return int(struct.unpack(">Q", file.read(8))[0])


def _first_entry(image: Path) -> int:
    """The offset of the disk's first cluster in the file."""
    table = _word(image, _word(image, _L1_TABLE_AT)) & _OFFSET_MASK
    return _word(image, table) & _OFFSET_MASK


def _set_refcount(image: Path, cluster: int, count: int) -> None:
    with image.open("r+b") as file:
        file.seek(_word(image, _word(image, _REFCOUNT_TABLE_AT)) + 2 * cluster)
        file.write(struct.pack(">H", count))


def _qemu_io(image: Path, *commands: str) -> list[str]:
    return ["qemu-io", "-f", "qcow2", *(f"-c{command}" for command in commands), str(image)]


def _checked(image: Path) -> int:
    return subprocess.run(["qemu-img", "check", "-q", str(image)], check=False).returncode


def _assert_content(image: Path) -> None:
    subprocess.run(_qemu_io(image, "read -P 1 0 64k", "read -P 2 64k 64k"), check=True)


def test_a_check_ends_when_the_transfer_is_stopped(image: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    mark.touch()

    def cancelled(_seconds: float) -> None:
        raise TransferCancelled("enough")

    server = TargetServer(
        image,
        tmp_path,
        writable=True,
        open_mark=mark,
        repairing=lambda path: repair(path, cancelled),
    )
    with pytest.raises(TransferCancelled):
        server.__enter__()

    checks = ["pgrep", "-f", f"qemu-img check.*{image}"]
    assert subprocess.run(checks, stdout=subprocess.DEVNULL, check=False).returncode == 1
    # The next transfer has the image checked.
    assert mark.exists()
