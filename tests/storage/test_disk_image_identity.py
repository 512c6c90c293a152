"""Images that their map does not describe, and chunks pending after passes that never ended."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from services.disk_agent.chunk_map.chunk_map import ChunkMap
from services.disk_agent.engine.control import Control
from services.disk_agent.engine.core import Tuning
from services.disk_agent.engine.progress import Progress
from services.disk_agent.engine.ranges import Range
from services.disk_agent.transfer_failures import (
    ContentMismatch,
    MapUnusable,
    TargetFailed,
    TargetUnusable,
    TransferCancelled,
)
from services.disk_agent.worker.modes import Mode
from tests.rigs.disk.transfer import BLOCK, CHUNK, Rig, create_image, overwrite

DISK = "AB--CD--" * 16
SLOW = ("--filter=delay", "file", "rdelay=5ms")
PASSES = pytest.mark.parametrize(
    ("mode", "number", "snapshot"),
    [(Mode.FULL, 0, "s0"), (Mode.RANGES, 1, "s1"), (Mode.RESYNC, 1, "s1")],
)


def replaced(tmp_path: Path) -> Rig:
    """A complete copy with another machine's image in its place."""
    rig = Rig(tmp_path, DISK)
    rig.run()
    (tmp_path / "other").mkdir()
    other = Rig(tmp_path / "other", "zy" * 64)
    other.run()
    rig.image.unlink()
    shutil.copy(other.image, rig.image)
    return rig


def test_an_image_with_other_data_is_not_copied_over(tmp_path: Path) -> None:
    rig = replaced(tmp_path)
    before = rig.image.read_bytes()
    with pytest.raises(TargetUnusable, match="does not hold what its chunk map records") as caught:
        rig.run()
    assert caught.value.reason == "TARGET_REPLACED"
    assert rig.image.read_bytes() == before


def test_changed_areas_are_not_applied_to_an_image_with_other_data(tmp_path: Path) -> None:
    rig = replaced(tmp_path)
    before = rig.image.read_bytes()
    changed = [overwrite(rig.source, 9, "q")]
    with pytest.raises(MapUnusable, match="does not hold what its chunk map records"):
        rig.run(Mode.RANGES, number=1, snapshot="s1", ranges=changed)
    assert rig.image.read_bytes() == before
    outcome = rig.run(Mode.RESYNC, number=1, snapshot="s1")
    assert outcome.notices == [
        "the image does not hold what its chunk map records: every byte is compared"
    ]
    rig.assert_identical()


def test_a_damaged_chunk_is_left_to_the_verification(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "A" * 64 + "-" * 64)
    rig.run()
    rig.damage(5 * BLOCK, b"?")
    changed = [overwrite(rig.source, 100, "q")]
    rig.run(Mode.RANGES, number=1, snapshot="s1", ranges=changed)
    with pytest.raises(ContentMismatch, match="1 of its chunks"):
        rig.run(Mode.VERIFY_TARGET, number=1, snapshot="s1", with_source=False)


@pytest.mark.parametrize("snapshot", ["s0", "s9"])
def test_the_few_data_chunks_of_a_thin_disk_are_sampled(tmp_path: Path, snapshot: str) -> None:
    """Also by a copy of another snapshot, which copies the whole disk."""
    rig = Rig(tmp_path, "ABCDEFGHIJKL")
    os.truncate(rig.source, 2 << 30)
    rig.image.unlink()
    create_image(rig.image, 2 << 30)
    rig.run()
    rig.image.unlink()
    create_image(rig.image, 2 << 30)
    write = ["qemu-io", "-c", "write -q -P 7 1G 1M", str(rig.image)]
    subprocess.run(write, check=True)
    before = rig.image.read_bytes()
    with pytest.raises(TargetUnusable, match="does not hold what its chunk map records"):
        rig.run(snapshot=snapshot)
    assert rig.image.read_bytes() == before


def test_data_written_before_the_first_checkpoint_is_overwritten(tmp_path: Path) -> None:
    """Nothing shows which disk the image is of, so zeroes are written as well."""
    rig = Rig(tmp_path, DISK)
    tuning = Tuning(depth=4, report_seconds=0.001, checkpoint_seconds=60.0)

    def die(control: Control, progress: Progress) -> None:
        if progress.done_bytes > rig.size // 2:
            os.kill(int((tmp_path / "target.pid").read_text()), signal.SIGKILL)

    with pytest.raises(TargetFailed):
        rig.run(server=(*SLOW, str(rig.source)), tuning=tuning, on_report=die)
    rig.damage(120 * BLOCK, b"?" * BLOCK)
    rig.run()
    rig.assert_identical()


def test_an_image_that_lost_its_end_is_noticed(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "AB" * 512)
    rig.run()
    os.truncate(rig.image, rig.image.stat().st_size - BLOCK)
    with pytest.raises(TargetUnusable, match="does not hold what its chunk map records"):
        rig.run()
    with pytest.raises(MapUnusable, match="does not hold what its chunk map records"):
        rig.run(Mode.RANGES, number=1, snapshot="s1", ranges=[Range(0, BLOCK)])


def test_chunks_lost_during_a_pass_are_found_at_its_end_and_copied_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "AB" * 16)
    image = os.open(rig.image, os.O_RDWR)

    def lose_a_cluster(control: Control, progress: Progress) -> None:
        if progress.done_bytes > rig.size // 2 and not (tmp_path / "lost").exists():
            at = os.pread(image, rig.image.stat().st_size, 0).find(b"A" * BLOCK)
            os.pwrite(image, bytes(BLOCK), at)
            (tmp_path / "lost").touch()

    with pytest.raises(TargetUnusable, match="1 of 8 chunks read back differ"):
        rig.run(server=(*SLOW, str(rig.source)), on_report=lose_a_cluster)
    os.close(image)
    assert rig.run().progress.resumed_bytes == rig.size - CHUNK
    rig.assert_identical()


def test_damage_beside_areas_that_a_delta_wrote_is_left_to_the_verification(tmp_path: Path) -> None:
    """A delta reads the other areas of a chunk for the digest, but does not write them."""
    rig = Rig(tmp_path, "AB" * 64)
    rig.run()
    rig.damage(43 * BLOCK + 7, b"?")
    changed = [overwrite(rig.source, 40, "xyz")]
    rig.run(Mode.RANGES, number=1, snapshot="s1", ranges=changed)
    with pytest.raises(ContentMismatch, match="1 of its chunks"):
        rig.run(Mode.VERIFY_TARGET, number=1, snapshot="s1", with_source=False)


def test_an_empty_image_is_filled_but_not_by_changed_areas(tmp_path: Path) -> None:
    rig = Rig(tmp_path, DISK)
    rig.run()
    rig.image.unlink()
    create_image(rig.image, rig.size)
    changed = [overwrite(rig.source, 9, "q")]
    with pytest.raises(MapUnusable, match="the image is empty"):
        rig.run(Mode.RANGES, number=1, snapshot="s1", ranges=changed)
    rig.run(Mode.RESYNC, number=1, snapshot="s1")
    rig.assert_identical()


@PASSES
@pytest.mark.parametrize("replaced", [False, True])
def test_a_pass_fails_when_its_image_is_removed_or_replaced(
    tmp_path: Path, mode: Mode, number: int, snapshot: str, replaced: bool
) -> None:
    rig = Rig(tmp_path, DISK)
    ranges = None
    if mode is not Mode.FULL:
        rig.run()
        ranges = [overwrite(rig.source, index, "q") for index in range(0, 128, 8)]

    def take_away(control: Control, progress: Progress) -> None:
        if rig.image.exists() and not (tmp_path / "moved").exists():
            rig.image.rename(tmp_path / "moved")
            if replaced:
                create_image(rig.image, rig.size)

    server = (*SLOW, str(rig.source))
    with pytest.raises(TargetUnusable, match="meanwhile") as caught:
        rig.run(
            mode,
            number=number,
            snapshot=snapshot,
            ranges=ranges,
            server=server,
            on_report=take_away,
        )
    assert caught.value.reason == "TARGET_REPLACED"
    with ChunkMap.open(rig.map) as found:
        assert not found.header.complete
    (tmp_path / "moved").replace(rig.image)
    rig.run(mode, number=number, snapshot=snapshot, ranges=ranges)
    rig.assert_identical()


def test_chunks_pending_after_an_interrupted_delta_are_copied_by_the_next_one(
    tmp_path: Path,
) -> None:
    """Also if the areas of the next delta do not include the chunk, or only a part of it."""
    rig = Rig(tmp_path, "A" * 128)
    rig.run()
    cancelled_delta(rig, 1, [overwrite(rig.source, index, "xy") for index in range(0, 128, 8)])
    second = [overwrite(rig.source, 97, "z"), overwrite(rig.source, 122, "z")]
    outcome = rig.run(Mode.RANGES, number=2, snapshot="s2", ranges=second)
    rig.assert_identical()
    assert outcome.progress.done_bytes == outcome.progress.total_bytes
    assert outcome.progress.total_bytes > sum(area.length_bytes for area in second)


def test_the_next_delta_continues_with_what_was_left_pending(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "A" * 128)
    rig.run()
    cancelled_delta(rig, 1, [overwrite(rig.source, index, "xy") for index in range(0, 128, 4)])
    for _ in range(2):
        cancelled_delta(rig, 2, [Range(0, BLOCK)])
    rig.run(Mode.RANGES, number=2, snapshot="s2", ranges=[Range(0, BLOCK)])
    rig.assert_identical()


def test_progress_is_right_when_the_source_is_opened_again_with_chunks_pending(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, "A" * 128)
    rig.run()
    cancelled_delta(rig, 1, [overwrite(rig.source, index, "xy") for index in range(0, 128, 4)])
    totals: set[int] = set()

    def kill_once(control: Control, progress: Progress) -> None:
        totals.add(progress.total_bytes)
        if progress.done_bytes > 48 * BLOCK and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os.kill(int((tmp_path / "source.pid").read_text()), signal.SIGKILL)

    outcome = rig.run(
        Mode.RANGES,
        number=2,
        snapshot="s2",
        ranges=[Range(0, BLOCK)],
        server=(*SLOW, str(rig.source)),
        on_report=kill_once,
        reopens=True,
    )
    rig.assert_identical()
    assert totals == {outcome.progress.total_bytes}
    assert outcome.accounted_bytes == outcome.progress.total_bytes


def test_changed_areas_are_not_applied_after_a_resync_that_never_ended(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "A" * 128)
    rig.run()
    overwrite(rig.source, 100, "x")
    with pytest.raises(TransferCancelled):
        rig.run(
            Mode.RESYNC,
            number=1,
            snapshot="s1",
            server=(*SLOW, str(rig.source)),
            on_report=cancel_after(16 * BLOCK),
        )
    with pytest.raises(MapUnusable, match="re-sync of the disk never ended"):
        rig.run(Mode.RANGES, number=2, snapshot="s2", ranges=[Range(0, BLOCK)])


def test_a_damaged_page_is_copied_again_by_the_next_delta(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "AB" * 16)
    rig.run()
    content = bytearray(rig.map.read_bytes())
    content[2 * 4096 + 100] ^= 1
    rig.map.write_bytes(content)
    changed = [overwrite(rig.source, 9, "q")]
    outcome = rig.run(Mode.RANGES, number=1, snapshot="s1", ranges=changed)
    assert outcome.notices == ["1 pages of the map were damaged"]
    assert outcome.progress.total_bytes == rig.size
    rig.assert_identical()
    verified = rig.run(Mode.VERIFY_TARGET, with_source=False).progress
    assert (verified.unverified_chunks, verified.verified_chunks) == (0, -(-rig.size // CHUNK))


def cancelled_delta(rig: Rig, number: int, ranges: list[Range]) -> None:
    """Run a delta that is stopped after it has copied a little."""
    with pytest.raises(TransferCancelled):
        rig.run(
            Mode.RANGES,
            number=number,
            snapshot=f"s{number}",
            ranges=ranges,
            server=(*SLOW, str(rig.source)),
            on_report=cancel_after(4 * BLOCK),
        )


def cancel_after(done_bytes: int) -> Callable[[Control, Progress], None]:
    """Stop a pass when it has copied this amount, without resumed bytes."""

    def on_report(control: Control, progress: Progress) -> None:
        if progress.done_bytes - progress.resumed_bytes >= done_bytes:
            control.stop = TransferCancelled("enough for this test")

    return on_report
