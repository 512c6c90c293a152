"""The section `limits` of config.yaml: how fast this host may copy, and when."""

import difflib
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from services.config.fields import Section, ZeroIsUnset, fault

__all__ = ["Day", "Limits", "RateWindow"]

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = get_args(Day)
_FULL_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)|24:00")


def _time_of_day(value: Any) -> Any:
    if not isinstance(value, str) or not _TIME.fullmatch(value.strip()):
        raise fault("is not a time of day", "Write hours and minutes, from 00:00 to 24:00.")
    return value.strip().zfill(5)


def _day(value: Any) -> Any:
    text = str(value).strip().lower()
    known = dict(zip((*DAYS, *_FULL_NAMES), DAYS * 2, strict=True))
    if text in known:
        return known[text]
    near = difflib.get_close_matches(text, known, n=1, cutoff=0.5)
    hint = f"Did you mean {known[near[0]]}?" if near else f"Days are {', '.join(DAYS)}."
    raise fault("is not a day of the week", hint)


TimeOfDay = Annotated[str, BeforeValidator(_time_of_day)]


class RateWindow(Section):
    """A part of the week, in this host's local time, with a ceiling of its own.

    A window whose end is not after its beginning reaches over midnight and belongs to the day on
    which it begins; from 00:00 to 24:00, or to 00:00, is the whole day.
    """

    begin: TimeOfDay = Field(alias="from")
    end: TimeOfDay = Field(alias="to")
    # Every day unless some are named.
    days: tuple[Annotated[Day, BeforeValidator(_day)], ...] = DAYS
    # MB/s of all transfers together; 0 would be a stop that nobody sees, pausing is for that.
    rate_mbps: float = Field(gt=0)


class Limits(Section):
    """Ceilings in MB/s (10^6 bytes a second). None or 0 is no ceiling: the default, since a
    migration that crawls unasked looks like a fault."""

    # Of one transfer (one disk).
    transfer_mbps: Annotated[float | None, ZeroIsUnset, Field(gt=0)] = None
    # Of all transfers of one disk agent together.
    agent_mbps: Annotated[float | None, ZeroIsUnset, Field(gt=0)] = None
    # Ceilings of all transfers together at certain times; the lowest that holds wins.
    windows: tuple[RateWindow, ...] = ()
