"""The chunks that a map lists as pending after passes that never ended, and after damage."""

import os
from pathlib import Path

import pytest

from services.disk_agent.chunk_map.chunk_map import ChunkMap, Kind, PassKey
from services.disk_agent.chunk_map.file import (
    PAGE_BYTES,
    RECORDS_PER_PAGE,
    recorded_chunk_bytes,
    write_header,
)
from services.disk_agent.transfer_failures import MapUnusable

_CHUNK = 4096
_CHUNKS = 5 * RECORDS_PER_PAGE
_FULL = PassKey("0", "s0", "full")
_DELTA = PassKey("1", "s1", "ranges")
_NEXT = PassKey("2", "s2", "ranges")


def complete(path: Path, chunks: int = _CHUNKS) -> ChunkMap:
    """A map of a full copy that completed."""
    made = ChunkMap.create(path, "d", chunks * _CHUNK, _CHUNK)
    made.begin_pass(_FULL)
    made.put(0, chunks, Kind.DATA, b"x" * 16)
    made.complete_pass()
    return made


def test_pending_runs_end_where_the_ranges_end(tmp_path: Path) -> None:
    with complete(tmp_path / "m") as made:
        last = RECORDS_PER_PAGE - 1
        made.begin_pass(_DELTA, stale=[(last, last + 1), (4 * RECORDS_PER_PAGE, _CHUNKS)])
        assert list(made.pending_runs()) == []
        made.begin_pass(_NEXT, stale=[(7, 9)])
        assert list(made.pending_runs()) == [(last, last + 1), (4 * RECORDS_PER_PAGE, _CHUNKS)]
        made.put(last, 1, Kind.DATA, b"y" * 16)
        assert list(made.pending_runs()) == [(4 * RECORDS_PER_PAGE, _CHUNKS)]


def test_a_pending_chunk_stays_pending_when_the_next_pass_changes_it(tmp_path: Path) -> None:
    with complete(tmp_path / "m", 20) as made:
        made.begin_pass(_DELTA, stale=[(3, 5)])
        made.begin_pass(_NEXT, stale=[(4, 7), (6, 8)])
        assert list(made.pending_runs()) == [(3, 5)]
        assert [made[index].kind for index in (5, 6, 7)] == [Kind.UNKNOWN] * 3


@pytest.mark.parametrize("writes", range(4))
def test_chunks_made_unknown_before_a_killed_pass_began_are_pending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Killed after some writes of headers, also while a large disk's chunks become UNKNOWN."""
    left = writes

    def some(*arguments: object) -> None:
        nonlocal left
        if not left:
            raise OSError(5, "killed here")
        left -= 1
        write_header(*arguments)  # type: ignore[arg-type]

    made = complete(tmp_path / "m")
    with monkeypatch.context() as patched:
        patched.setattr(f"{ChunkMap.__module__}.write_header", some)
        patched.setattr(f"{ChunkMap.__module__}._FORGOTTEN_PAGES", 1)
        if writes < 3:
            with pytest.raises(OSError, match="killed here"):
                made.begin_pass(_DELTA, stale=[(0, 2 * RECORDS_PER_PAGE)])
        else:
            made.begin_pass(_DELTA, stale=[(0, 2 * RECORDS_PER_PAGE)])
    made.close()
    with ChunkMap.open(tmp_path / "m") as again:
        forgotten = {index for index in range(_CHUNKS) if again[index].kind is Kind.UNKNOWN}
        again.begin_pass(_NEXT, stale=[(_CHUNKS - 1, _CHUNKS)])
        pending = {index for first, stop in again.pending_runs() for index in range(first, stop)}
    assert pending == forgotten


@pytest.mark.parametrize("slot", [0, 1])
def test_either_header_may_be_damaged_amid_a_pass(tmp_path: Path, slot: int) -> None:
    with complete(tmp_path / "m") as made:
        made.begin_pass(_DELTA, stale=[(3, 5)])
    with (tmp_path / "m").open("r+b") as file:
        file.seek(slot * PAGE_BYTES + 40)
        file.write(b"damage")
    with ChunkMap.open(tmp_path / "m") as again:
        assert (again.header.key, again.header.complete) == (_DELTA, False)
        again.begin_pass(_NEXT)
        assert list(again.pending_runs()) == [(3, 5)]


def test_the_new_end_of_a_disk_that_grew_is_pending(tmp_path: Path) -> None:
    with complete(tmp_path / "m", 20) as made:
        made.begin_pass(PassKey("1", "s1", "resync"))
        made.put(0, 20, Kind.DATA, b"x" * 16)
        made.complete_pass()
        made.grow(30 * _CHUNK)
        # The re-sync ended, so it must not count as one that never did.
        assert made.header.mode == ""
        made.begin_pass(_NEXT, stale=[(1, 2)])
        assert list(made.pending_runs()) == [(20, 30)]


def test_a_damaged_page_counts_once_however_often_it_is_read(tmp_path: Path) -> None:
    chunks = 600 * RECORDS_PER_PAGE
    complete(tmp_path / "m", chunks).close()
    with (tmp_path / "m").open("r+b") as file:
        file.seek(2 * PAGE_BYTES + 100)
        file.write(b"damage")
    with ChunkMap.open(tmp_path / "m") as made:
        assert made.lacks_digests()
        assert list(made.pending_runs()) == [(0, RECORDS_PER_PAGE)]
        assert list(made.pending_runs()) == [(0, RECORDS_PER_PAGE)]
        assert made.damaged_pages == 1


def test_a_pass_does_not_complete_when_its_map_was_removed(tmp_path: Path) -> None:
    with complete(tmp_path / "m", 20) as made:
        made.begin_pass(_DELTA)
        (tmp_path / "m").rename(tmp_path / "elsewhere")
        with pytest.raises(MapUnusable, match="removed or replaced"):
            made.complete_pass()
        os.close(os.open(tmp_path / "m", os.O_CREAT | os.O_WRONLY))
        with pytest.raises(MapUnusable, match="removed or replaced"):
            made.complete_pass()


def test_the_file_format_is_that_of_existing_maps(tmp_path: Path) -> None:
    """Kinds, sequence numbers and digests lie where maps on customers' hosts have them."""
    path = tmp_path / "m"
    with ChunkMap.create(path, "d", 4 * _CHUNK, _CHUNK) as made:
        made.begin_pass(_FULL)
        made.put(1, 1, Kind.ZERO)
        made.put(2, 1, Kind.DATA, bytes(range(16)))
        made.put(3, 1, Kind.UNDIGESTED)
        made.complete_pass()
    file = path.read_bytes()
    assert file[16:24] == b"v2c-map1"
    # After two header slots: 16 bytes of checksum, then words of sequence << 2 | kind with digests.
    page = file[2 * 4096 :]
    records = [page[at : at + 20] for at in range(16, 16 + 4 * 20, 20)]
    words = [int.from_bytes(record[:4], "little") for record in records]
    assert words == [0, 1 << 2 | 1, 1 << 2 | 2, 1 << 2 | 3]
    assert records[2][4:] == bytes(range(16))


def test_the_chunk_size_of_a_map_is_read_without_opening_it(tmp_path: Path) -> None:
    path = tmp_path / "m"
    assert recorded_chunk_bytes(path) == 0
    with ChunkMap.create(path, "d", 4 * _CHUNK, _CHUNK):
        assert recorded_chunk_bytes(path) == _CHUNK
    path.write_bytes(b"damaged")
    assert recorded_chunk_bytes(path) == 0
