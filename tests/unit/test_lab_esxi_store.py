"""The lab's disk store against a model: frozen copies and sets of touched blocks."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.esxi.disks.store import Store
from lab.esxi.model import EsxiError

BLOCK = 64 * 1024
BLOCKS = 7
SIZE = (BLOCKS - 1) * BLOCK + 512  # the last block is cut short
PATH = "[ds] vm/disk.vmdk"


@dataclass
class Frozen:
    content: bytes
    used: set[int]
    change_id: str
    changes_before: int


@dataclass
class Model:
    """What a disk must look like: content, used blocks, and every change made so far."""

    content: bytearray = field(default_factory=lambda: bytearray(SIZE))
    used: set[int] = field(default_factory=set)
    changes: list[set[int]] = field(default_factory=list)
    snapshots: dict[str, Frozen] = field(default_factory=dict)


def blocks(offset: int, length: int) -> set[int]:
    return set(range(offset // BLOCK, -(-(offset + length) // BLOCK)))


def areas(numbers: set[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        start, end = number * BLOCK, min((number + 1) * BLOCK, SIZE)
        if found and sum(found[-1]) == start:
            found[-1] = (found[-1][0], end - found[-1][0])
        else:
            found.append((start, end - start))
    return found


ranges = st.tuples(st.integers(0, SIZE // 512 - 1), st.integers(1, 300)).map(
    lambda pair: (pair[0] * 512, min(pair[1] * 512, SIZE - pair[0] * 512))
)
steps = st.one_of(
    st.tuples(st.sampled_from(["write", "zero", "trim"]), ranges),
    st.tuples(st.sampled_from(["snapshot", "remove", "reopen"]), st.integers(0, 5)),
)


def apply(store: Store, model: Model, number: int, kind: str, argument: object) -> Store:
    disk, _ = store.open_view("vm-1", 2000, None)
    if isinstance(argument, tuple):
        offset, length = argument
        touched = blocks(offset, length)
        if kind == "write":
            data = bytes([number % 255 + 1]) * length
            disk.write(data, offset)
            model.content[offset : offset + length] = data
            model.used |= touched
        elif kind == "zero":
            disk.zero(offset, length)
            model.content[offset : offset + length] = bytes(length)
        else:
            disk.trim(offset, length)
            ends = {offset // BLOCK} if offset % BLOCK else set()
            if (offset + length) % BLOCK and offset + length != SIZE:
                ends.add((offset + length) // BLOCK)
            touched -= ends
            for block in touched:
                end = min((block + 1) * BLOCK, SIZE)
                model.content[block * BLOCK : end] = bytes(end - block * BLOCK)
            model.used -= touched
        model.changes.append(touched)
    elif kind == "snapshot" and len(model.snapshots) < 4:
        name = f"snapshot-{number}"
        made = store.create_snapshot("vm-1", name, [2000])[2000]
        assert made.change_id is not None
        model.snapshots[name] = Frozen(
            bytes(model.content), set(model.used), made.change_id, len(model.changes)
        )
    elif kind == "remove" and model.snapshots:
        name = sorted(model.snapshots)[int(str(argument)) % len(model.snapshots)]
        store.remove_snapshot("vm-1", name)
        model.snapshots.pop(name)
    elif kind == "reopen":
        store.close()
        return Store(store.directory)
    return store


def generation(frozen: Frozen) -> int:
    return int(frozen.change_id.split("/")[1])


def check(store: Store, model: Model, known: list[Frozen]) -> None:
    disk, _ = store.open_view("vm-1", 2000, None)
    for view, frozen in [
        (None, Frozen(bytes(model.content), model.used, "", 0)),
        *model.snapshots.items(),
    ]:
        buffer = bytearray(SIZE)
        disk.read(view, buffer, 0)
        assert buffer == frozen.content
        page = store.allocated_areas("vm-1", view, 2000, 0, 99)
        assert list(page.areas) == areas(frozen.used)
    for name, newer in model.snapshots.items():
        for older in known:
            if generation(older) <= generation(newer):
                touched: set[int] = set()
                touched.update(*model.changes[older.changes_before : newer.changes_before])
                page = store.changed_areas("vm-1", name, 2000, older.change_id, 0, 99)
                assert list(page.areas) == areas(touched)
                assert (page.start, page.length) == (0, SIZE)


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=25))
def test_any_history_of_writes_and_snapshots_is_seen_exactly(
    history: list[tuple[str, object]],
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store, model = Store(Path(directory) / "disks"), Model()
        store.add_disk("vm-1", 2000, PATH, SIZE, None)
        store.set_tracking("vm-1", 2000, True)
        known: list[Frozen] = []
        for number, (kind, argument) in enumerate(history):
            store = apply(store, model, number, kind, argument)
            known += [each for each in model.snapshots.values() if each not in known]
        check(store, model, known)
        store.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "disks")
    store.add_disk("vm-1", 2000, PATH, SIZE, None)
    return store


def write(store: Store, *block_numbers: int) -> None:
    disk, _ = store.open_view("vm-1", 2000, None)
    for number in block_numbers:
        disk.write(b"x" * 512, number * BLOCK)


def snapshot(store: Store, name: str) -> str | None:
    return store.create_snapshot("vm-1", name, [2000])[2000].change_id


def assert_file_fault(store: Store, name: str, change_id: str) -> None:
    with pytest.raises(EsxiError) as caught:
        store.changed_areas("vm-1", name, 2000, change_id, 0, 10)
    assert caught.value.kind == "file_fault"


def test_change_ids_look_like_vmwares_and_count_snapshots(store: Store) -> None:
    store.set_tracking("vm-1", 2000, True)
    first, second = snapshot(store, "s1"), snapshot(store, "s2")
    assert first is not None
    assert second is not None
    assert first.count("-") == 1
    assert len(first.split("/")[0]) == len("52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63")
    assert first.split("/")[0] == second.split("/")[0]
    assert int(second.split("/")[1]) > int(first.split("/")[1])


def test_an_untracked_disk_has_no_change_id_and_cannot_be_asked(store: Store) -> None:
    assert snapshot(store, "s1") is None
    assert_file_fault(store, "s1", "*")


def test_a_snapshot_from_before_tracking_cannot_be_asked_about(store: Store) -> None:
    snapshot(store, "s1")
    store.set_tracking("vm-1", 2000, True)
    change_id = snapshot(store, "s2")
    assert change_id is not None
    assert_file_fault(store, "s1", change_id)


def test_a_reset_makes_every_earlier_id_stale(store: Store) -> None:
    store.set_tracking("vm-1", 2000, True)
    old = snapshot(store, "s1")
    store.reset_tracking("vm-1", 2000)
    new = snapshot(store, "s2")
    assert old is not None
    assert new is not None
    assert old.split("/")[0] != new.split("/")[0]
    assert_file_fault(store, "s2", old)
    assert_file_fault(store, "s1", old)
    assert store.changed_areas("vm-1", "s2", 2000, new, 0, 10).areas == ()


def test_an_id_newer_than_the_snapshot_or_malformed_is_refused(store: Store) -> None:
    store.set_tracking("vm-1", 2000, True)
    snapshot(store, "s1")
    newer = snapshot(store, "s2")
    assert newer is not None
    assert_file_fault(store, "s1", newer)
    assert_file_fault(store, "s2", "nonsense")


def test_areas_in_use_are_unknown_when_tracking_began_under_a_snapshot(store: Store) -> None:
    write(store, 1)
    snapshot(store, "s1")
    store.set_tracking("vm-1", 2000, True)
    snapshot(store, "s2")
    assert store.changed_areas("vm-1", "s2", 2000, "*", 0, 10).areas == ((0, SIZE),)


def test_pages_cover_the_disk_without_gaps_and_repeat_nothing(store: Store) -> None:
    store.set_tracking("vm-1", 2000, True)
    first = snapshot(store, "s1")
    assert first is not None
    write(store, 0, 2, 4, 6)
    snapshot(store, "s2")
    position = 0
    found: list[tuple[int, int]] = []
    while position < SIZE:
        page = store.changed_areas("vm-1", "s2", 2000, first, position, 1)
        assert page.start == position
        assert page.length > 0
        found += page.areas
        position += page.length
    assert position == SIZE
    assert found == areas({0, 2, 4, 6})


def test_a_page_that_starts_inside_a_block_is_cut_there(store: Store) -> None:
    write(store, 1)
    page = store.allocated_areas("vm-1", None, 2000, BLOCK + 512, 10)
    assert page.areas == ((BLOCK + 512, BLOCK - 512),)
    with pytest.raises(EsxiError, match="outside the disk"):
        store.allocated_areas("vm-1", None, 2000, SIZE, 10)


def test_files_of_a_chain_are_named_as_vsphere_names_them(store: Store) -> None:
    base, first, second = PATH, PATH[:-5] + "-000001.vmdk", PATH[:-5] + "-000002.vmdk"
    assert store.create_snapshot("vm-1", "s1", [2000])[2000].path == base
    assert store.create_snapshot("vm-1", "s2", [2000])[2000].path == first
    assert store.current_path("vm-1", 2000) == second
    store.remove_snapshot("vm-1", "s1")
    assert store.snapshot_disks("vm-1", "s2")[2000].path == base
    store.remove_snapshot("vm-1", "s2")
    assert store.current_path("vm-1", 2000) == base


def test_adopting_an_image_keeps_its_holes(store: Store, tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as stream:
        stream.seek(2 * BLOCK)
        stream.write(b"y" * BLOCK)
        stream.truncate(5 * BLOCK)
    store.add_disk("vm-1", 2001, "[ds] vm/other.vmdk", SIZE, image)
    assert store.allocated_areas("vm-1", None, 2001, 0, 10).areas == ((2 * BLOCK, BLOCK),)
    disk, _ = store.open_view("vm-1", 2001, None)
    buffer = bytearray(512)
    disk.read(None, buffer, 3 * BLOCK - 512)
    assert buffer == b"y" * 512


def test_disks_grow_only_without_snapshots(store: Store) -> None:
    store.resize_disk("vm-1", 2000, 2 * SIZE)
    assert store.disks()[0].capacity_bytes == 2 * SIZE
    snapshot(store, "s1")
    with pytest.raises(EsxiError, match="has snapshots"):
        store.resize_disk("vm-1", 2000, 4 * SIZE)


def test_removed_disks_and_half_made_snapshots_leave_no_files(store: Store) -> None:
    left_behind = store.directory / "vm-1_2000" / "snapshot-9.cow"
    left_behind.write_bytes(b"from a killed process")
    store.close()
    again = Store(store.directory)
    assert not left_behind.exists()
    again.remove_disk("vm-1", 2000)
    assert [path.name for path in again.directory.iterdir()] == ["store.json"]


@pytest.mark.parametrize("name", ["", "a/b", "a@b", "../x", "live"])
def test_names_that_would_break_paths_are_refused(store: Store, name: str) -> None:
    with pytest.raises(EsxiError, match="not a moref"):
        store.add_disk(name, 2000, "[ds] x/x.vmdk", SIZE, None)
