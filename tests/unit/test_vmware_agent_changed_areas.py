"""Extents in these tests are strings of blocks: ``A`` changed, ``-`` not; ``|`` ends a page."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.vmware_agent.changed_areas import Progress, stream_changed_areas
from services.vmware_agent.errors import CbtReset, DiskNotFound
from services.vmware_agent.vm import Area, ChangedAreaPage, SnapshotDisk
from tests.rigs.fakes.vcenter import MemoryVCenter, vm

BLOCK = 65536


def areas_of(blocks: str, first: int = 0) -> tuple[Area, ...]:
    """One area per changed block, as a vCenter that merges nothing would answer."""
    return tuple(Area((first + i) * BLOCK, BLOCK) for i, block in enumerate(blocks) if block == "A")


def vcenter_with(pages: str, change_id: str | None = "aa/9") -> MemoryVCenter:
    vcenter = MemoryVCenter(vm())
    first = 0
    for blocks in pages.split("|"):
        start = first * BLOCK
        vcenter.pages[start] = ChangedAreaPage(start, len(blocks) * BLOCK, areas_of(blocks, first))
        first += len(blocks)
    vcenter.frozen["snapshot-1"] = (SnapshotDisk(2000, "[ds1] a.vmdk", first * BLOCK, change_id),)
    return vcenter


async def stream(
    vcenter: MemoryVCenter, change_id: str = "aa/3", key: int = 2000
) -> list[Progress]:
    return [
        progress
        async for progress in stream_changed_areas(vcenter, "vm-1", "snapshot-1", key, change_id)
    ]


async def answer(vcenter: MemoryVCenter, change_id: str = "aa/3") -> list[Area]:
    return [area for progress in await stream(vcenter, change_id) for area in progress.areas]


async def test_pages_are_followed_to_the_capacity() -> None:
    assert await answer(vcenter_with("A--A|--A-|A---")) == [
        Area(0, BLOCK),
        Area(3 * BLOCK, BLOCK),
        Area(6 * BLOCK, BLOCK),
        Area(8 * BLOCK, BLOCK),
    ]


async def test_empty_pages_do_not_end_the_answer() -> None:
    assert await answer(vcenter_with("----|----|---A")) == [Area(11 * BLOCK, BLOCK)]


async def test_nothing_changed_still_covers_the_disk() -> None:
    last = (await stream(vcenter_with("----|----")))[-1]
    assert last == Progress((), 8 * BLOCK, 8 * BLOCK)


async def test_neighbours_are_merged_also_across_pages() -> None:
    assert await answer(vcenter_with("-AAA|AA--|A-AA")) == [
        Area(BLOCK, 5 * BLOCK),
        Area(8 * BLOCK, BLOCK),
        Area(10 * BLOCK, 2 * BLOCK),
    ]


@given(st.lists(st.text("A-", min_size=1, max_size=6), min_size=1, max_size=8))
async def test_any_paging_tells_the_same_blocks(pages: list[str]) -> None:
    blocks = "".join(pages)
    reported = ["-"] * len(blocks)
    covered, behind = 0, 0
    for progress in await stream(vcenter_with("|".join(pages))):
        for area in progress.areas:
            assert behind <= area.start < area.end <= progress.covered_bytes
            assert behind == 0 or area.start > behind, "touching areas are one"
            behind = area.end
            reported[area.start // BLOCK : area.end // BLOCK] = ["A"] * (area.length // BLOCK)
        assert progress.covered_bytes >= covered
        covered = progress.covered_bytes
        assert "".join(reported[: covered // BLOCK]) == blocks[: covered // BLOCK]
    assert "".join(reported) == blocks
    assert covered == len(blocks) * BLOCK


async def test_pages_are_asked_for_only_as_the_caller_reads() -> None:
    vcenter = vcenter_with("A---|A---|A---")
    reader = stream_changed_areas(vcenter, "vm-1", "snapshot-1", 2000, "aa/3")
    await anext(reader)
    assert len(vcenter.called("changed_areas")) == 1


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (ChangedAreaPage(BLOCK, 4 * BLOCK, ()), "starts at byte"),
        (ChangedAreaPage(0, 0, ()), "covers 0 bytes"),
        (ChangedAreaPage(0, 5 * BLOCK, ()), "after the disk's end"),
        (ChangedAreaPage(0, 4 * BLOCK, (Area(BLOCK, BLOCK), Area(0, BLOCK))), "out of order"),
        (ChangedAreaPage(0, 4 * BLOCK, (Area(0, 2 * BLOCK), Area(BLOCK, BLOCK))), "overlaps"),
        (ChangedAreaPage(0, 2 * BLOCK, (Area(0, 3 * BLOCK),)), "after the answer's end"),
        (ChangedAreaPage(0, 4 * BLOCK, (Area(0, 0),)), "has 0 bytes"),
    ],
)
async def test_an_answer_that_makes_no_sense_is_a_reset(
    page: ChangedAreaPage, expected: str
) -> None:
    vcenter = vcenter_with("----")
    vcenter.pages[0] = page
    with pytest.raises(CbtReset, match=expected) as caught:
        await stream(vcenter)
    assert caught.value.metadata == {"disk": "2000", "cause": "malformed_answer"}
    assert not caught.value.retryable


async def test_a_gap_between_pages_is_a_reset() -> None:
    vcenter = vcenter_with("----|----")
    vcenter.pages[4 * BLOCK] = ChangedAreaPage(5 * BLOCK, 3 * BLOCK, ())
    with pytest.raises(CbtReset):
        await stream(vcenter)


async def test_an_untracked_disk_is_a_reset() -> None:
    with pytest.raises(CbtReset, match="not tracked") as caught:
        await stream(vcenter_with("AAAA", change_id=None))
    assert caught.value.metadata["cause"] == "no_change_id"


async def test_an_empty_change_id_never_reaches_vcenter() -> None:
    vcenter = vcenter_with("AAAA")
    with pytest.raises(CbtReset):
        await stream(vcenter, change_id="")
    assert not vcenter.called("changed_areas")


async def test_a_changed_uuid_is_a_reset_even_if_vcenter_would_answer() -> None:
    with pytest.raises(CbtReset, match="from bb/3 to aa/9") as caught:
        await stream(vcenter_with("AAAA"), change_id="bb/3")
    assert caught.value.metadata["cause"] == "uuid_changed"


async def test_areas_in_use_need_no_earlier_change_id() -> None:
    assert await answer(vcenter_with("A---"), change_id="*") == [Area(0, BLOCK)]


async def test_a_disk_that_is_not_in_the_snapshot_is_named() -> None:
    with pytest.raises(DiskNotFound, match="no disk 2007"):
        await stream(vcenter_with("A---"), key=2007)
