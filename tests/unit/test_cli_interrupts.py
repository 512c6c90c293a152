"""Signals that end a command, and those that it was started to ignore."""

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from cli.interrupts import Interrupted, interruptible


async def _signalled(number: int) -> str:
    os.kill(os.getpid(), number)
    await asyncio.sleep(0.1)
    return "done"


@pytest.fixture(autouse=True)
def _no_nohup() -> Iterator[None]:
    """Also where the tests were started by nohup(1)."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_work_is_cancelled_and_the_first_signal_reported(number: int) -> None:
    notes: list[str] = []
    with pytest.raises(Interrupted):
        asyncio.run(interruptible(_signalled(number), lambda: notes.append("stopping")))
    assert notes == ["stopping"]


def test_a_terminal_that_hangs_up_is_ignored_under_nohup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    notes: list[str] = []
    work = interruptible(_signalled(signal.SIGHUP), lambda: notes.append("stopping"))
    assert asyncio.run(work) == "done"
    assert notes == []
