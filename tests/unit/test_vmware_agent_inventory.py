import unicodedata

import pytest

from services.vmware_agent.errors import (
    AmbiguousVmName,
    InvalidQuery,
    VmIdentityMismatch,
    VmNotFound,
)
from services.vmware_agent.vm_search import find_vm, list_vms
from tests.rigs.fakes.vcenter import MemoryVCenter, vm

INVENTORY = (
    vm("vm-1", "web-1", path="/DC1/vm/prod/web-1"),
    vm("vm-2", "Web server 2", path="/DC1/vm/prod/Web server 2"),
    vm("vm-3", "db", path="/DC1/vm/db"),
    vm("vm-4", "db", path="/DC2/vm/old/db"),
    vm("vm-5", "büro", path="/DC1/vm/büro"),
    vm("vm-6", "a/b", path="/DC1/vm/a%2fb"),
    vm("vm-7", "gold", path="/DC1/vm/gold", template=True),
    vm("vm-8", "100% \\ ok", path="/DC1/vm/100%25 %5c ok"),
)


@pytest.fixture
def vcenter() -> MemoryVCenter:
    return MemoryVCenter(*INVENTORY)


@pytest.mark.parametrize(
    ("wanted", "moref"),
    [
        ({"moref": "vm-3"}, "vm-3"),
        ({"moref": "vm-3", "name": "db"}, "vm-3"),
        ({"instance_uuid": "5000-VM-4"}, "vm-4"),
        ({"name": "Web server 2"}, "vm-2"),
        ({"name": "WEB-1"}, "vm-1"),
        ({"name": "/DC2/vm/old/db"}, "vm-4"),
        ({"name": "/DC1/vm/prod/web-1/"}, "vm-1"),
        ({"name": unicodedata.normalize("NFD", "büro")}, "vm-5"),
        ({"name": "a/b"}, "vm-6"),
        ({"name": "a%2fb"}, "vm-6"),
        ({"name": "a%2Fb"}, "vm-6"),
        ({"name": "100% \\ ok"}, "vm-8"),
        ({"name": "100%25 %5c ok"}, "vm-8"),
    ],
)
async def test_exactly_the_vm_meant_is_found(
    vcenter: MemoryVCenter, wanted: dict[str, str], moref: str
) -> None:
    assert (await find_vm(vcenter, **wanted)).moref == moref


async def test_an_ambiguous_name_lists_the_candidates(vcenter: MemoryVCenter) -> None:
    with pytest.raises(AmbiguousVmName) as caught:
        await find_vm(vcenter, name="db")
    assert "vm-3 (/DC1/vm/db), vm-4 (/DC2/vm/old/db)" in str(caught.value)
    assert caught.value.metadata["candidates"] == "vm-3,vm-4"
    assert "vm.moref" in caught.value.hint


async def test_names_that_differ_in_case_only_are_compared_exactly(
    vcenter: MemoryVCenter,
) -> None:
    vcenter.vms["vm-9"] = vm("vm-9", "WEB-1")
    assert (await find_vm(vcenter, name="web-1")).moref == "vm-1"
    with pytest.raises(AmbiguousVmName):
        await find_vm(vcenter, name="Web-1")


async def test_a_template_of_the_same_name_does_not_count(vcenter: MemoryVCenter) -> None:
    vcenter.vms["vm-9"] = vm("vm-9", "gold", path="/DC2/vm/gold")
    assert (await find_vm(vcenter, name="gold")).moref == "vm-9"


async def test_an_unknown_name_comes_with_the_nearest(vcenter: MemoryVCenter) -> None:
    with pytest.raises(VmNotFound, match="'web-11'; the nearest names are 'web-1'") as caught:
        await find_vm(vcenter, name="web-11")
    assert caught.value.metadata["nearest"].split(",")[0] == "web-1"
    with pytest.raises(VmNotFound, match=r"named 'zzzz'$"):
        await find_vm(vcenter, name="zzzz")


@pytest.mark.parametrize(
    "wanted",
    [
        {"moref": "vm-3", "name": "web-1"},
        {"moref": "vm-3", "instance_uuid": "5000-vm-4"},
        {"instance_uuid": "5000-vm-3", "name": "web-1"},
    ],
)
async def test_descriptions_of_two_vms_are_refused(
    vcenter: MemoryVCenter, wanted: dict[str, str]
) -> None:
    with pytest.raises(VmIdentityMismatch):
        await find_vm(vcenter, **wanted)


@pytest.mark.parametrize("wanted", [{"moref": "vm-99"}, {"instance_uuid": "none"}])
async def test_unknown_ids(vcenter: MemoryVCenter, wanted: dict[str, str]) -> None:
    with pytest.raises(VmNotFound):
        await find_vm(vcenter, **wanted)


async def test_nothing_given_is_refused(vcenter: MemoryVCenter) -> None:
    with pytest.raises(InvalidQuery):
        await find_vm(vcenter)


async def test_pages_follow_the_path_without_gaps_or_repeats(vcenter: MemoryVCenter) -> None:
    seen: list[str] = []
    after = ""
    while True:
        page = await list_vms(vcenter, page_size=3, after=after)
        assert page.total_count == 7, "the template is not listed"
        seen += [one.path for one in page.vms]
        if page.next_after is None:
            break
        after = page.next_after
    assert seen == sorted(one.path for one in INVENTORY if not one.template)


async def test_a_listing_continues_when_vms_vanish_between_pages(vcenter: MemoryVCenter) -> None:
    first = await list_vms(vcenter, page_size=2)
    del vcenter.vms[first.vms[-1].moref]
    rest = await list_vms(vcenter, page_size=100, after=first.next_after or "")
    paths = [one.path for one in (*first.vms, *rest.vms)]
    assert paths == sorted(one.path for one in INVENTORY if not one.template)


@pytest.mark.parametrize(
    ("text", "morefs"),
    [("WEB", {"vm-1", "vm-2"}), ("/dc2/", {"vm-4"}), ("a/b", {"vm-6"}), ("BÜRO", {"vm-5"})],
)
async def test_filter_looks_in_names_and_paths(
    vcenter: MemoryVCenter, text: str, morefs: set[str]
) -> None:
    page = await list_vms(vcenter, text=text)
    assert {one.moref for one in page.vms} == morefs


async def test_a_page_is_read_with_one_call(vcenter: MemoryVCenter) -> None:
    await list_vms(vcenter)
    assert [call[0] for call in vcenter.calls] == ["list_entries", "get_vms"]


@pytest.mark.parametrize("page_size", [-1, 5001])
async def test_page_sizes_out_of_range_are_refused(vcenter: MemoryVCenter, page_size: int) -> None:
    with pytest.raises(InvalidQuery):
        await list_vms(vcenter, page_size=page_size)
