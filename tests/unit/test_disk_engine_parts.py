"""Ranges, the chunk map, the rate limit and the counters, each one alone."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.disk_agent.chunk_map.chunk_map import ChunkMap, Kind, PassKey
from services.disk_agent.chunk_map.file import RECORDS_PER_PAGE
from services.disk_agent.engine.limit import RateLimit
from services.disk_agent.engine.progress import Meter
from services.disk_agent.engine.ranges import (
    Range,
    RangeError,
    by_chunk,
    checked_ranges,
    chunk_runs,
    near_merged,
    total_bytes,
    united,
)
from services.disk_agent.resources.record import State
from services.disk_agent.transfer_failures import MapUnusable
from services.disk_agent.transfers.store import TransferStore
from services.disk_agent.transfers.transfer import Transfer
from services.disk_agent.worker.modes import Mode
from services.disk_agent.worker.order import NbdSpec, TransferOrder
from services.disk_agent.worker.range_sets import (
    RangeSets,
    RangesMissing,
    RangesRefused,
    load_ranges,
)

MIB = 1 << 20
KEY = PassKey("0", "s0", "full")


class FakeClock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@given(st.lists(st.integers(0, 4000), min_size=2, max_size=40, unique=True))
def test_cutting_along_chunks_keeps_every_byte(cuts: list[int]) -> None:
    edges = sorted(cuts)
    pairs = zip(edges[::2], edges[1::2], strict=False)
    ranges = checked_ranges([Range(a, b - a) for a, b in pairs], 4000)
    chunks = list(by_chunk(ranges, 256))
    assert [index for index, _ in chunks] == sorted({index for index, _ in chunks})
    assert sum(total_bytes(pieces) for _, pieces in chunks) == total_bytes(ranges)
    for index, pieces in chunks:
        assert all(index * 256 <= p.offset_bytes < p.end_bytes <= index * 256 + 256 for p in pieces)


def test_ranges_are_sorted_joined_and_checked() -> None:
    assert checked_ranges([Range(8, 4), Range(0, 8), Range(20, 0)], 20) == [Range(0, 12)]
    for bad in ([Range(0, 5), Range(4, 2)], [Range(0, 21)], [Range(-1, 2)], [Range(3, -1)]):
        with pytest.raises(RangeError):
            checked_ranges(bad, 20)


def test_near_pieces_are_joined() -> None:
    assert near_merged([Range(0, 4), Range(6, 2), Range(20, 1)], 2) == [Range(0, 8), Range(20, 1)]


def test_ranges_are_united_once_each() -> None:
    ranges = [Range(8, 6), Range(0, 4), Range(10, 10), Range(20, 1), Range(2, 1)]
    assert united(ranges) == [Range(0, 4), Range(8, 13)]
    assert list(chunk_runs(united(ranges), 8)) == [(0, 1), (1, 3)]


def test_range_sets_survive_and_damage_is_noticed(tmp_path: Path) -> None:
    sets = RangeSets(tmp_path)
    sets.put("p-1", [Range(512, 512), Range(0, 512)], 4096)
    assert load_ranges(sets.path("p-1")) == [Range(0, 1024)]
    sets.path("p-1").write_bytes(sets.path("p-1").read_bytes()[:-1])
    with pytest.raises(RangesMissing, match="damaged"):
        load_ranges(sets.path("p-1"))
    with pytest.raises(RangesRefused):
        sets.put("../p", [], 4096)


def test_records_are_durable_with_the_checkpoint_only(tmp_path: Path) -> None:
    path = tmp_path / "m.map"
    with ChunkMap.create(path, "d", 1000 * MIB, MIB) as chunk_map:
        chunk_map.begin_pass(KEY)
        chunk_map.put(3, 1, Kind.DATA, b"x" * 16)
        chunk_map.checkpoint()
        chunk_map.put(4, 500, Kind.ZERO)
    with ChunkMap.open(path) as again:
        again.begin_pass(KEY)
        assert again.resumed
        assert again[3] == (Kind.DATA, 1, b"x" * 16)
        assert list(again.undone_runs(0, 1000)) == [(0, 3), (4, 1000)]


def test_only_the_same_pass_on_the_same_snapshot_resumes(tmp_path: Path) -> None:
    for other in (PassKey("1", "s0", "full"), PassKey("0", "s1", "full")):
        with ChunkMap.create(tmp_path / "m.map", "d", 10 * MIB, MIB) as chunk_map:
            chunk_map.begin_pass(KEY)
            chunk_map.put(0, 10, Kind.ZERO)
            chunk_map.checkpoint()
            chunk_map.begin_pass(other)
            assert not chunk_map.resumed
            assert not chunk_map.is_done(0)
            assert chunk_map[0].kind is Kind.ZERO


def test_damaged_page_is_unknown_and_other_pages_stay(tmp_path: Path) -> None:
    path = tmp_path / "m.map"
    chunks = 2 * RECORDS_PER_PAGE
    with ChunkMap.create(path, "d", chunks * MIB, MIB) as chunk_map:
        chunk_map.begin_pass(KEY)
        chunk_map.put(0, chunks, Kind.DATA, b"y" * 16)
        chunk_map.checkpoint()
    content = bytearray(path.read_bytes())
    content[3 * 4096 + 2000] ^= 1
    path.write_bytes(content)
    with ChunkMap.open(path) as again:
        again.begin_pass(KEY)
        assert list(again.undone_runs(0, chunks)) == [(RECORDS_PER_PAGE, chunks)]
        assert again.damaged_pages == 1


def test_torn_header_falls_back_and_two_are_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "m.map"
    with ChunkMap.create(path, "d", 10 * MIB, MIB) as chunk_map:
        chunk_map.begin_pass(KEY)
        chunk_map.complete_pass()
        newest = chunk_map.header.generation % 2
    content = bytearray(path.read_bytes())
    content[newest * 4096 + 30] ^= 1
    path.write_bytes(content)
    with ChunkMap.open(path) as again:
        assert not again.header.complete
    content[(1 - newest) * 4096 + 30] ^= 1
    path.write_bytes(content)
    with pytest.raises(MapUnusable):
        ChunkMap.open(path)


def test_rate_limit_keeps_its_rate_and_changes_at_once() -> None:
    clock = FakeClock()
    limit = RateLimit(10 * MIB, clock)
    sent = 0
    while clock.seconds < 110:
        if wait := limit.wait_seconds():
            clock.seconds += wait
        else:
            limit.spend(MIB)
            sent += MIB
    assert sent == pytest.approx(100 * MIB, rel=0.02)
    limit.spend(50 * MIB)
    limit.set_rate(0)
    assert limit.wait_seconds() == 0


def test_resumed_bytes_do_not_count_as_speed() -> None:
    clock = FakeClock()
    meter = Meter(100 * MIB, clock)
    meter.resumed_bytes = 50 * MIB
    clock.seconds += 10
    meter.copied_bytes = meter.fed_bytes = 10 * MIB
    progress = meter.snapshot()
    assert progress.done_bytes == 60 * MIB
    assert progress.bytes_per_second == pytest.approx(MIB)
    assert progress.eta_seconds == pytest.approx(40)


def test_transfers_are_kept_without_loss(tmp_path: Path) -> None:
    store = TransferStore(tmp_path)
    order = TransferOrder("t:1", Mode.RANGES, NbdSpec("nbd://h"), "/p/a b.qcow2", 1, "d", "s", 3)
    transfer = Transfer(order, State.RUNNING, 5, 1.0)
    store.save(transfer)
    (tmp_path / "transfers" / "broken.json").write_text("{")
    assert [found for _, found in store.load()] == [None, transfer]
    assert transfer.changed(0.0).revision == 6
    assert transfer.changed(9.0).revision == 9000


def test_fence_is_kept_until_the_image_is_forgotten(tmp_path: Path) -> None:
    store = TransferStore(tmp_path)
    assert store.fence("/p/a") == 0
    store.raise_fence("/p/a", 7)
    assert TransferStore(tmp_path).fence("/p/a") == 7
    store.forget_image("/p/a")
    assert store.fence("/p/a") == 0
