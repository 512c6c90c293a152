"""Ctrl-C, SIGTERM and a hung-up terminal in a command that puts things in order first."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

__all__ = ["Interrupted", "interruptible"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_T = TypeVar("_T")


class Interrupted(Exception):
    """The operator, or the system, asked the command to end."""


async def interruptible(work: Coroutine[Any, Any, _T], on_first: Callable[[], None]) -> _T:
    """Run `work`; the first of the signals calls `on_first` and cancels it.

    Raises Interrupted after `work` has cleaned up. Further signals are ignored while it does: its
    clean-up has its own time limits.
    """
    task = asyncio.ensure_future(work)
    signalled = False

    def on_signal() -> None:
        nonlocal signalled
        if not signalled:
            signalled = True
            on_first()
            task.cancel()

    with _handling(on_signal):
        try:
            return await task
        except asyncio.CancelledError as exc:
            if signalled:
                raise Interrupted from exc
            raise


@contextlib.contextmanager
def _handling(on_signal: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    # nohup(1) has it ignored, and means it. A shell that starts a command in the background has
    # SIGINT ignored, too; whoever sends one to its process all the same means that.
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    heeded = [each for each in _SIGNALS if not (ignored and each is signal.SIGHUP)]
    for number in heeded:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in heeded:
            loop.remove_signal_handler(number)
