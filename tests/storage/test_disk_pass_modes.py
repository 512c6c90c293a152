"""What each mode does to an image, checked with qemu-img."""

import subprocess
import time
from pathlib import Path

import nbd
import pytest

from services.disk_agent.engine.core import Tuning
from services.disk_agent.engine.ranges import Range
from services.disk_agent.transfer_failures import (
    ContentMismatch,
    MapUnusable,
    SourceUnusable,
    TargetUnusable,
    TransferFailure,
)
from services.disk_agent.worker.modes import Mode
from tests.rigs.disk.transfer import BLOCK, CHUNK, Rig, create_image, overwrite, serving, write_disk

# Data, zeroes and holes, alone and mixed within chunks of four blocks.
MIXED = "AAAA" + "----" + "0000" + "A0-B" + "---C" + "-----" + "DD" + "0" * 9 + "EEEE" * 3


@pytest.mark.parametrize(
    ("letters", "extra"),
    [
        (MIXED, 0),
        ("A" * 32, 0),
        ("-" * 32, 0),
        ("0" * 32, 0),
        ("A", 0),
        ("AB-", 512),
        ("A---B", 4096 + 512),
        ("-" * 5, 1),
        ("AAAA" * 3, 333),
    ],
)
def test_full_copy_is_identical(tmp_path: Path, letters: str, extra: int) -> None:
    rig = Rig(tmp_path, letters, extra_bytes=extra)
    outcome = rig.run()
    rig.assert_identical()
    assert outcome.progress.done_bytes == outcome.progress.total_bytes == rig.size
    assert outcome.notices == []


def test_holes_are_not_read_and_zeroes_not_written(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "AAAA" + "-" * 400 + "0000")
    progress = rig.run().progress
    assert progress.read_bytes == 2 * CHUNK
    assert progress.written_bytes == CHUNK
    assert rig.image.stat().st_blocks * 512 < 2 * CHUNK + (1 << 20)


def test_equal_disks_have_equal_digests(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    holes, zeroes = Rig(tmp_path / "one", "AAAA----B"), Rig(tmp_path / "two", "AAAA0000B")
    assert holes.run().digest == zeroes.run().digest != ""


def test_full_copy_onto_old_data_writes_zeroes(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "ABCDEFGH" * 4)
    rig.run()
    write_disk(rig.source, "A---" + "-" * 12 + "0000" + "EEEE" * 3)
    progress = rig.run(number=1, snapshot="s1").progress
    rig.assert_identical()
    assert progress.resumed_bytes == progress.skipped_bytes == 0


def test_ranges_copy_data_and_zeroes(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "AAAA" * 8)
    rig.run()
    areas = [
        overwrite(rig.source, 1, "x"),
        overwrite(rig.source, 6, "0yz"),
        overwrite(rig.source, 12, "0000" * 2),
        overwrite(rig.source, 31, "-"),
    ]
    progress = rig.run(Mode.RANGES, number=1, snapshot="s1", ranges=areas).progress
    rig.assert_identical()
    assert progress.done_bytes == progress.total_bytes == 13 * BLOCK


def test_changed_areas_that_became_holes_are_not_read(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "A" * 640)
    rig.run()
    # For 16 MiB the extents are queried. Every other block was discarded, the others written.
    with rig.source.open("r+b") as file:
        file.truncate(0)
        file.truncate(rig.size)
    overwrite(rig.source, 300, "B" * 20)
    ranges = [Range(at * BLOCK, BLOCK) for at in range(0, 640, 2)]
    ranges += [Range(at * BLOCK, BLOCK) for at in range(1, 640, 2)]
    progress = rig.run(Mode.RANGES, number=1, ranges=sorted(ranges)).progress
    rig.assert_identical()
    assert progress.read_bytes < 40 * BLOCK
    assert progress.written_bytes == 20 * BLOCK
    assert progress.done_bytes == progress.total_bytes == rig.size


def test_a_few_changed_areas_are_read_without_querying_extents(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "A" * 64)
    rig.run()
    changed = overwrite(rig.source, 5, "B")
    # A query would fail and give a notice.
    no_extents = ("--filter=error", "file", str(rig.source))
    server = (*no_extents, "error-extents=EIO", "error-extents-rate=100%")
    outcome = rig.run(Mode.RANGES, number=1, ranges=[changed], server=server)
    rig.assert_identical()
    assert outcome.notices == []


def test_ranges_leave_everything_else_alone(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "AAAA" * 4)
    rig.run()
    inside = overwrite(rig.source, 5, "x")
    overwrite(rig.source, 14, "y")  # changed, but in no range
    progress = rig.run(Mode.RANGES, number=1, snapshot="s1", ranges=[inside]).progress
    assert progress.read_bytes == BLOCK
    with pytest.raises(AssertionError):
        rig.assert_identical()


def test_empty_range_set_is_a_pass_too(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "AAAA")
    rig.run()
    progress = rig.run(Mode.RANGES, number=1, snapshot="s1", ranges=[]).progress
    assert progress.read_bytes == progress.total_bytes == 0


def test_unaligned_ranges(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "AAAA" * 4)
    rig.run()
    with rig.source.open("r+b") as file:
        file.seek(CHUNK - 100)
        file.write(b"x" * 5000)
    rig.run(Mode.RANGES, number=1, snapshot="s1", ranges=[Range(CHUNK - 512, 5632)])
    rig.assert_identical()


def test_ranges_need_a_complete_base(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "AAAA")
    with pytest.raises(MapUnusable):
        rig.run(Mode.RANGES, number=1, ranges=[Range(0, BLOCK)])


def test_resync_writes_only_what_differs(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "AAAA" * 16)
    rig.run()
    overwrite(rig.source, 9, "x")
    overwrite(rig.source, 20, "0000")
    progress = rig.run(Mode.RESYNC, number=1, snapshot="s1").progress
    rig.assert_identical()
    assert progress.written_bytes == CHUNK
    assert progress.zero_bytes == CHUNK
    assert progress.skipped_bytes == 14 * CHUNK


def test_resync_without_a_map_reads_the_target(tmp_path: Path) -> None:
    rig = Rig(tmp_path, MIXED)
    rig.run()
    rig.map.unlink()
    overwrite(rig.source, 2, "x")
    progress = rig.run(Mode.RESYNC, number=1, snapshot="s1").progress
    rig.assert_identical()
    assert progress.written_bytes <= CHUNK
    assert rig.run(Mode.VERIFY_TARGET, with_source=False).progress.unverified_chunks == 0


def test_resync_after_ranges_knows_the_half_written_chunks(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "AAAA" * 4)
    rig.run()
    area = overwrite(rig.source, 5, "x")
    rig.run(Mode.RANGES, number=1, snapshot="s1", ranges=[area])
    overwrite(rig.source, 5, "A")
    rig.run(Mode.RESYNC, number=2, snapshot="s2")
    rig.assert_identical()


def test_verify_target_finds_nothing_in_a_good_image(tmp_path: Path) -> None:
    rig = Rig(tmp_path, MIXED)
    rig.run()
    progress = rig.run(Mode.VERIFY_TARGET, with_source=False).progress
    assert progress.unverified_chunks == 0
    assert progress.verified_chunks == -(-rig.size // CHUNK)


@pytest.mark.parametrize("letter", ["x", "0"])
def test_verify_target_names_the_damage(tmp_path: Path, letter: str) -> None:
    rig = Rig(tmp_path, "AAAA" * 4 + "----")
    rig.run()
    rig.damage(9 * BLOCK, letter.replace("0", "\0").encode() * BLOCK)
    with pytest.raises(ContentMismatch) as caught:
        rig.run(Mode.VERIFY_TARGET, with_source=False)
    assert "vm-1/2000" in caught.value.message
    assert f"offset {2 * CHUNK}" in caught.value.message
    assert caught.value.metadata["chunks"] == "1"


def test_verify_target_finds_data_where_zeroes_belong(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "AAAA----")
    rig.run()
    rig.damage(CHUNK, b"x" * 512)
    with pytest.raises(ContentMismatch, match="expected zero"):
        rig.run(Mode.VERIFY_TARGET, with_source=False)


def test_verify_target_compares_half_written_chunks_with_the_source(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "AAAA" * 4)
    rig.run()
    area = overwrite(rig.source, 5, "x")
    rig.run(Mode.RANGES, number=1, snapshot="s1", ranges=[area])
    alone = rig.run(Mode.VERIFY_TARGET, with_source=False).progress
    assert alone.unverified_chunks == 1
    together = rig.run(Mode.VERIFY_TARGET).progress
    assert (together.unverified_chunks, together.verified_chunks) == (0, 4)
    rig.damage(5 * BLOCK, b"y" * 512)
    with pytest.raises(ContentMismatch):
        rig.run(Mode.VERIFY_TARGET)


def test_verify_target_compares_what_became_zeroes_in_part_with_the_source(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "---A" + "AAAA" + "------")
    rig.run()
    area = overwrite(rig.source, 3, "0")
    rig.run(Mode.RANGES, number=1, snapshot="s1", ranges=[area])
    rig.damage(0, b"\0" * CHUNK)
    progress = rig.run(Mode.VERIFY_TARGET).progress
    assert (progress.unverified_bytes, progress.verified_bytes) == (0, rig.size)
    alone = rig.run(Mode.VERIFY_TARGET, with_source=False).progress
    assert (alone.unverified_bytes, alone.verified_bytes) == (CHUNK, rig.size - CHUNK)
    overwrite(rig.source, 0, "x")
    with pytest.raises(ContentMismatch, match=r"offset 0, .* found zero"):
        rig.run(Mode.VERIFY_TARGET)


def test_verify_full_compares_with_the_source(tmp_path: Path) -> None:
    rig = Rig(tmp_path, MIXED)
    rig.run()
    rig.run(Mode.VERIFY_FULL)
    rig.damage(5 * BLOCK, b"x" * 512)  # where the source has a hole
    with pytest.raises(ContentMismatch, match=f"offset {CHUNK}"):
        rig.run(Mode.VERIFY_FULL)


@pytest.mark.parametrize("content", [b"", b"damaged", None])
def test_verify_full_needs_no_map_and_keeps_an_existing_one(
    tmp_path: Path, content: bytes | None
) -> None:
    rig = Rig(tmp_path, MIXED)
    rig.run()
    if content is None:
        rig.map.unlink()
    else:
        rig.map.write_bytes(content)
    rig.run(Mode.VERIFY_FULL)
    assert rig.map.exists() is (content is not None)
    assert content is None or rig.map.read_bytes() == content
    assert not list(tmp_path.glob("*.spare"))


def test_the_new_end_of_a_grown_disk_is_copied(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "AAAA" * 2 + "B")
    rig.run()
    with rig.source.open("ab") as file:
        file.write(b"t" * (5 * BLOCK))
    size = rig.source.stat().st_size
    _grow_image(rig, size)
    # A changed area may extend beyond the former end.
    area = Range(8 * BLOCK, 2 * BLOCK)
    progress = rig.run(Mode.RANGES, number=1, snapshot="s1", ranges=[area]).progress
    rig.assert_identical()
    assert progress.total_bytes == 6 * BLOCK
    rig.run(Mode.VERIFY_FULL)


def test_wrong_sizes_are_refused(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "AAAA")
    with pytest.raises(SourceUnusable, match="bytes"):
        rig.run(server=("memory", "1M"))
    rig.image.unlink()
    create_image(rig.image, rig.size * 2)
    with pytest.raises(TargetUnusable) as caught:
        rig.run()
    assert caught.value.reason == "TARGET_SIZE_MISMATCH"


def test_locked_image_is_named(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "AAAA")

    (tmp_path / "other").mkdir()
    other = Rig(tmp_path / "other", "AAAA")
    other.image = rig.image

    def run_other() -> None:
        with pytest.raises(TransferFailure) as caught:
            other.run()
        assert caught.value.reason == "TARGET_LOCKED"
        assert caught.value.retryable

    rig.run(before=run_other)
    rig.assert_identical()


def test_large_sparse_disk_takes_bounded_time_and_memory(tmp_path: Path) -> None:
    """3 TiB with data at both ends: extents are queried in windows, zeroes handled in runs."""
    rig = Rig(tmp_path, "A")
    with rig.source.open("r+b") as file:
        file.truncate(3 << 40)
        file.seek((3 << 40) - BLOCK)
        file.write(b"Z" * BLOCK)
    rig.image.unlink()
    rig.size = 3 << 40
    create_image(rig.image, rig.size)
    rig.chunk_bytes = 1 << 20
    progress = rig.run().progress
    assert progress.read_bytes == 2 * BLOCK
    assert progress.done_bytes == 3 << 40
    rig.run(Mode.RANGES, number=1, snapshot="s1", ranges=[Range((3 << 40) - BLOCK, BLOCK)])
    with serving(tmp_path, "file", str(rig.source)):
        handle = nbd.NBD()
        handle.connect_uri(rig.uri)
        assert handle.pread(1, (3 << 40) - 1) == b"Z"
        handle.shutdown()


def _grow_image(rig: Rig, size: int) -> None:
    subprocess.run(["qemu-img", "resize", "-q", str(rig.image), str(size)], check=True)


def test_completions_during_an_extents_query_are_handled_at_once(tmp_path: Path) -> None:
    """The engine must not wait for its next report to notice them."""
    rig = Rig(tmp_path, "AAAA")
    size = 5 << 30
    with rig.source.open("r+b") as file:
        file.truncate(size)
        # The last chunks of a window: the next window is queried while they are read.
        file.seek((2 << 30) - 2 * CHUNK)
        file.write(b"B" * 2 * CHUNK)
    rig.size = size
    rig.image.unlink()
    create_image(rig.image, size)
    slow = ("--filter=delay", "file", str(rig.source), "rdelay=20ms", "delay-extents=200ms")
    tuning = Tuning(depth=4, report_seconds=20.0, checkpoint_seconds=60.0)
    began = time.monotonic()
    rig.run(server=slow, tuning=tuning)
    assert time.monotonic() - began < 10
