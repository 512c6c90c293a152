"""How QueryChangedDiskAreas pages are cut on request."""

from __future__ import annotations

from lab.esxi.model import ChangedAreas
from lab.vcenter.methods.tracking import shaped
from lab.vcenter.world.settings import Settings

_PAGE = ChangedAreas(0, 100, ((10, 20), (50, 30)))


def test_without_settings_the_page_stays() -> None:
    assert shaped(_PAGE, Settings()) == _PAGE


def test_a_byte_limit_cuts_areas_in_two() -> None:
    assert shaped(_PAGE, Settings(cbt_page_bytes=60)) == ChangedAreas(0, 60, ((10, 20), (50, 10)))


def test_a_byte_limit_can_leave_a_page_empty() -> None:
    assert shaped(_PAGE, Settings(cbt_page_bytes=10)) == ChangedAreas(0, 10, ())


def test_gaps_become_pages_of_their_own() -> None:
    assert shaped(_PAGE, Settings(cbt_empty_pages=True)) == ChangedAreas(0, 10, ())


def test_a_page_that_begins_with_an_area_keeps_it() -> None:
    page = ChangedAreas(10, 90, ((10, 20), (50, 30)))
    assert shaped(page, Settings(cbt_empty_pages=True)) == page
