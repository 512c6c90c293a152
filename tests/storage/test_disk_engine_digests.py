"""A disk's digests use the algorithm of its map, even if another is configured later."""

from pathlib import Path

import pytest
from blake3 import blake3

from services.disk_agent.chunk_map.chunk_map import ChunkMap
from services.disk_agent.chunk_map.digests import BLAKE3, DIGEST_BYTES, XXH3_128
from services.disk_agent.engine.control import Control
from services.disk_agent.engine.progress import Progress
from services.disk_agent.transfer_failures import ContentMismatch, TransferCancelled
from services.disk_agent.worker.modes import Mode
from tests.rigs.disk.transfer import BLOCK, CHUNK, Rig, overwrite

DISK = "AAAA----BBBBC0-D" * 4
CHUNKS = 16
OTHER = {XXH3_128: BLAKE3, BLAKE3: XXH3_128}


def algorithm_of(rig: Rig) -> str:
    with ChunkMap.open(rig.map) as chunk_map:
        return chunk_map.header.digest


def test_blake3_finds_a_flipped_byte_after_copy_and_delta(tmp_path: Path) -> None:
    rig = Rig(tmp_path, DISK)
    rig.digest = BLAKE3
    rig.run()
    area = overwrite(rig.source, 4, "cccc")
    rig.run(Mode.RANGES, number=1, snapshot="s1", ranges=[area])
    rig.assert_identical()
    progress = rig.run(Mode.VERIFY_TARGET, with_source=False).progress
    assert (progress.verified_chunks, progress.unverified_chunks) == (CHUNKS, 0)
    rig.damage(5 * BLOCK + 77, b"b")
    with pytest.raises(ContentMismatch) as caught:
        rig.run(Mode.VERIFY_TARGET, with_source=False)
    expected = blake3(b"c" * CHUNK).hexdigest(length=DIGEST_BYTES)
    assert f"offset {CHUNK}, {CHUNK} bytes: expected {expected}" in caught.value.message
    with pytest.raises(ContentMismatch):
        rig.run(Mode.VERIFY_FULL)


@pytest.mark.parametrize("made_with", OTHER)
def test_a_map_keeps_its_algorithm_when_the_config_changes(tmp_path: Path, made_with: str) -> None:
    rig = Rig(tmp_path, DISK)
    rig.digest = made_with
    rig.run()
    rig.digest = OTHER[made_with]
    area = overwrite(rig.source, 0, "xxxx")
    rig.run(Mode.RANGES, number=1, snapshot="s1", ranges=[area])
    overwrite(rig.source, 8, "yyyy")
    resynced = rig.run(Mode.RESYNC, number=2, snapshot="s2").progress
    assert resynced.written_bytes == CHUNK
    rig.assert_identical()
    assert algorithm_of(rig) == made_with
    progress = rig.run(Mode.VERIFY_TARGET, with_source=False).progress
    assert (progress.verified_chunks, progress.unverified_chunks) == (CHUNKS, 0)
    rig.run(number=3, snapshot="s3")
    assert algorithm_of(rig) == rig.digest


@pytest.mark.parametrize("made_with", OTHER)
def test_a_copy_resumes_with_the_digests_it_began_with(tmp_path: Path, made_with: str) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    rig, straight = Rig(tmp_path / "one", DISK * 4), Rig(tmp_path / "two", DISK * 4)
    rig.digest = straight.digest = made_with

    def stop_half_way(control: Control, progress: Progress) -> None:
        if progress.done_bytes >= rig.size // 2:
            control.stop = TransferCancelled("enough for this test")

    slow = ("--filter=delay", "file", str(rig.source), "rdelay=5ms")
    with pytest.raises(TransferCancelled):
        rig.run(server=slow, on_report=stop_half_way)
    rig.digest = OTHER[made_with]
    outcome = rig.run()
    assert 0 < outcome.progress.resumed_bytes < rig.size
    assert outcome.digest == straight.run().digest
