"""What the vCenter simulator expects of disks, checked against both kinds of store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.esxi.model import EsxiError
from lab.esxi.process import start_esxi
from lab.scenario import MIB
from lab.vcenter.world.memory_disks import MemoryDisks
from lab.vcenter.world.ports import DiskStore

_BASE = "[ds one] vm/vm.vmdk"


@pytest.fixture(params=["memory", "esxi"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DiskStore]:
    if request.param == "memory":
        yield MemoryDisks()
    else:
        with start_esxi(tmp_path / "esxi") as esxi:
            yield esxi.client


def test_a_snapshot_adds_a_file_and_its_removal_restores_the_name(store: DiskStore) -> None:
    store.add_disk("vm-1", 2000, _BASE, 8 * MIB)
    frozen = store.create_snapshot("vm-1", "snapshot-1", [2000])
    assert frozen[2000].path == _BASE
    assert frozen[2000].capacity_bytes == 8 * MIB
    assert frozen[2000].change_id is None
    assert store.current_path("vm-1", 2000) == "[ds one] vm/vm-000001.vmdk"
    assert store.disks()[0].snapshots == ("snapshot-1",)
    store.remove_snapshot("vm-1", "snapshot-1")
    assert store.current_path("vm-1", 2000) == _BASE


def test_change_ids_are_valid_only_while_tracking_lasts(store: DiskStore) -> None:
    store.add_disk("vm-1", 2000, _BASE, 8 * MIB)
    store.set_tracking("vm-1", 2000, True)
    first = store.create_snapshot("vm-1", "snapshot-1", [2000])[2000].change_id
    second = store.create_snapshot("vm-1", "snapshot-2", [2000])[2000].change_id
    assert first is not None
    assert second is not None
    assert first != second
    assert first.partition("/")[0] == second.partition("/")[0]
    page = store.changed_areas("vm-1", "snapshot-2", 2000, first, 0)
    assert (page.start, page.length) == (0, 8 * MIB)
    store.reset_tracking("vm-1", 2000)
    store.create_snapshot("vm-1", "snapshot-3", [2000])
    with pytest.raises(EsxiError) as refused:
        store.changed_areas("vm-1", "snapshot-3", 2000, second, 0)
    assert refused.value.kind == "file_fault"


@pytest.mark.parametrize("change_id", ["", "nonsense", "00 11/9"])
def test_unknown_change_ids_are_file_faults(store: DiskStore, change_id: str) -> None:
    store.add_disk("vm-1", 2000, _BASE, 8 * MIB)
    store.set_tracking("vm-1", 2000, True)
    store.create_snapshot("vm-1", "snapshot-1", [2000])
    with pytest.raises(EsxiError) as refused:
        store.changed_areas("vm-1", "snapshot-1", 2000, change_id, 0)
    assert refused.value.kind == "file_fault"


def test_the_areas_in_use_stay_inside_the_disk(store: DiskStore) -> None:
    store.add_disk("vm-1", 2000, _BASE, 8 * MIB)
    store.set_tracking("vm-1", 2000, True)
    store.create_snapshot("vm-1", "snapshot-1", [2000])
    position = 0
    while position < 8 * MIB:
        page = store.changed_areas("vm-1", "snapshot-1", 2000, "*", position)
        assert page.start == position
        assert page.length > 0
        position += page.length
    assert position == 8 * MIB


def test_a_disk_grows_only_without_snapshots(store: DiskStore) -> None:
    store.add_disk("vm-1", 2000, _BASE, 8 * MIB)
    store.resize_disk("vm-1", 2000, 16 * MIB)
    assert store.disks()[0].capacity_bytes == 16 * MIB
    store.create_snapshot("vm-1", "snapshot-1", [2000])
    with pytest.raises(EsxiError) as refused:
        store.resize_disk("vm-1", 2000, 32 * MIB)
    assert refused.value.kind == "invalid_state"


def test_unknown_disks_and_snapshots_are_not_found(store: DiskStore) -> None:
    for call in (
        lambda: store.remove_disk("vm-1", 2000),
        lambda: store.current_path("vm-1", 2000),
        lambda: store.set_tracking("vm-1", 2000, True),
        lambda: store.create_snapshot("vm-1", "snapshot-1", [2000]),
        lambda: store.remove_snapshot("vm-1", "snapshot-1"),
    ):
        with pytest.raises(EsxiError) as refused:
            call()
        assert refused.value.kind == "not_found"


def test_a_name_is_taken_once(store: DiskStore) -> None:
    store.add_disk("vm-1", 2000, _BASE, 8 * MIB)
    with pytest.raises(EsxiError) as refused:
        store.add_disk("vm-1", 2000, "[ds one] vm/other.vmdk", 8 * MIB)
    assert refused.value.kind == "already_exists"
    store.create_snapshot("vm-1", "snapshot-1", [2000])
    with pytest.raises(EsxiError) as refused:
        store.create_snapshot("vm-1", "snapshot-1", [2000])
    assert refused.value.kind == "already_exists"
