"""Repair of an image that differs: only differing chunks are read, and all are read back."""

import os
import subprocess
from pathlib import Path

import pytest

from services.disk_agent.engine.control import Control
from services.disk_agent.engine.progress import Progress
from services.disk_agent.transfer_failures import (
    ContentMismatch,
    MapUnusable,
    SourceFailed,
    TransferCancelled,
)
from services.disk_agent.worker.modes import Mode
from tests.rigs.disk.transfer import BLOCK, CHUNK, Rig, overwrite, serving

LETTERS = "AAAA" * 6 + "-" * 8 + "00AA"


def test_only_what_differs_is_read_and_written_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, LETTERS, extra_bytes=512)
    rig.run()
    rig.damage(5 * BLOCK, b"x" * 512)
    rig.damage(4 * CHUNK, b"\0" * CHUNK)
    rig.damage(7 * CHUNK, b"x")
    with pytest.raises(ContentMismatch):
        rig.run(Mode.VERIFY_TARGET, with_source=False)

    progress = rig.run(Mode.REPAIR).progress

    assert (progress.repaired_chunks, progress.repaired_bytes) == (3, 3 * CHUNK)
    assert progress.read_bytes == 3 * CHUNK
    assert progress.verified_bytes == progress.done_bytes == rig.size
    rig.assert_identical()
    assert rig.run(Mode.VERIFY_TARGET, with_source=False).progress.unverified_chunks == 0


def test_a_good_image_is_left_alone(tmp_path: Path) -> None:
    rig = Rig(tmp_path, LETTERS)
    digest = rig.run().digest
    outcome = rig.run(Mode.REPAIR)
    assert outcome.progress.repaired_chunks == outcome.progress.written_bytes == 0
    assert outcome.progress.read_bytes == 0
    assert outcome.digest == digest


def test_chunks_without_a_digest_are_compared_with_the_source(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "AAAA" * 4)
    rig.run()
    for block in (1, 5):
        area = overwrite(rig.source, block, "x")
        rig.run(Mode.RANGES, number=block, snapshot=f"s{block}", ranges=[area])
    rig.damage(5 * BLOCK, b"y")

    progress = rig.run(Mode.REPAIR).progress

    assert (progress.repaired_chunks, progress.read_bytes) == (1, 2 * CHUNK)
    rig.assert_identical()


def test_storage_that_loses_writes_is_found_by_reading_back(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "AAAA" * 2 + "----")
    rig.run()
    discarding = serving(tmp_path, "null", str(rig.size), name="null", writable=True)
    with discarding, pytest.raises(ContentMismatch, match=r"2 of its chunks .* found zero"):
        rig.run_to(Mode.REPAIR, f"nbd+unix:///?socket={tmp_path}/null.sock")


def test_an_interrupted_repair_is_repeated(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "AAAA" * 64)
    rig.run()
    for chunk in range(0, 64, 3):
        rig.damage(chunk * CHUNK, b"x")

    def stop(control: Control, progress: Progress) -> None:
        if progress.repaired_chunks:
            control.stop = TransferCancelled("enough")

    slow = ("--filter=delay", "file", str(rig.source), "rdelay=50ms")
    with pytest.raises(TransferCancelled):
        rig.run(Mode.REPAIR, server=slow, on_report=stop)
    rest = rig.run(Mode.REPAIR).progress

    assert rest.repaired_chunks < 22
    rig.assert_identical()


@pytest.mark.parametrize("mode", [Mode.REPAIR, Mode.VERIFY_TARGET])
def test_a_pass_that_reads_only_the_target_reports_its_rate(tmp_path: Path, mode: Mode) -> None:
    rig = Rig(tmp_path, "AAAA" * 64)
    rig.run()
    rates: list[float] = []

    def note(control: Control, progress: Progress) -> None:
        rates.append(progress.bytes_per_second)

    assert rig.run(mode, on_report=note).progress.read_bytes == 0
    assert max(rates) > 0


def test_without_a_map_there_is_nothing_to_compare_the_image_with(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "AAAA")
    with pytest.raises(MapUnusable, match="repairing the image needs the chunk map"):
        rig.run(Mode.REPAIR)


def test_a_wrong_record_is_corrected(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "AAAA" * 2)
    rig.run()
    overwrite(rig.source, 5, "x")
    rig.damage(5 * BLOCK, b"x" * BLOCK)
    with pytest.raises(ContentMismatch):
        rig.run(Mode.VERIFY_TARGET, with_source=False)

    assert rig.run(Mode.REPAIR).progress.repaired_chunks == 0

    assert rig.run(Mode.VERIFY_TARGET, with_source=False).progress.unverified_chunks == 0


@pytest.mark.parametrize("mode", [Mode.REPAIR, Mode.VERIFY_TARGET])
def test_a_map_of_a_pass_that_has_not_ended_is_refused(tmp_path: Path, mode: Mode) -> None:
    rig = Rig(tmp_path, "AAAA" * 4)
    rig.run()
    area = overwrite(rig.source, 5, "x")
    gone = ("--filter=error", "file", str(rig.source), "error-pread=EIO", "error-pread-rate=100%")
    with pytest.raises(SourceFailed):
        rig.run(Mode.RANGES, number=1, snapshot="s1", ranges=[area], server=gone)
    with pytest.raises(MapUnusable, match="has not ended"):
        rig.run(mode)
    rig.run(Mode.RANGES, number=1, snapshot="s1", ranges=[area])
    rig.run(mode)
    rig.assert_identical()


@pytest.mark.parametrize("mode", [Mode.REPAIR, Mode.VERIFY_TARGET, Mode.VERIFY_FULL])
def test_a_disk_that_grew_since_is_reported(tmp_path: Path, mode: Mode) -> None:
    rig = Rig(tmp_path, "AAAA" * 4)
    rig.run()
    larger = rig.size + 3 * CHUNK
    os.truncate(rig.source, larger)
    subprocess.run(["qemu-img", "resize", "-q", str(rig.image), str(larger)], check=True)
    if mode is Mode.VERIFY_FULL:
        assert rig.run(mode).progress.verified_bytes == larger
        return
    with pytest.raises(MapUnusable, match=f"is of {rig.size} bytes, the disk has {larger}"):
        rig.run(mode)
