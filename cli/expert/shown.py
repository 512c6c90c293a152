"""How the copies of the expert commands are shown: lines for people, or objects for scripts."""

import json as json_module
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import typer

from cli.errors import CommandError
from cli.show.units import rate, size

__all__ = ["Shown", "say", "shown"]

_PERCENT_STEP = 5

Event = Mapping[str, Any]


class Shown(Protocol):
    """How a copy is shown."""

    def event(self, event: Event) -> None:
        """Show an event of the worker. That it cannot be written is no reason to stop."""
        ...

    def end(self, target: Path, end: Event) -> None:
        """It ended well. Raises CommandError when that cannot be written."""
        ...


def shown(json: bool) -> Shown:
    """The display that was asked for."""
    return _Json() if json else _Lines()


def say(line: str, *, err: bool = False) -> OSError | None:
    """Write a line; returns why it could not be: a closed pipe, a hung-up terminal, a full disk.

    Nothing more goes there then, Python's own flush at the end neither.
    """
    try:
        typer.echo(line, err=err)
    except OSError as error:
        stream = sys.stderr if err else sys.stdout
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        return error
    return None


def _show_end(line: str, failed: OSError | None = None) -> None:
    failed = failed or say(line)
    if failed is not None:
        raise CommandError(
            f"the copy is complete, but the result could not be written: {failed.strerror}",
            "Repeat the command to see it: nothing is copied again.",
        )


class _Json:
    """The worker's events, one JSON object a line, as they are."""

    def __init__(self) -> None:
        self._failed: OSError | None = None

    def event(self, event: Event) -> None:
        self._failed = self._failed or say(json_module.dumps(event, ensure_ascii=False))

    def end(self, target: Path, end: Event) -> None:
        line = {**end, "target_qcow2": str(target)}
        _show_end(json_module.dumps(line, ensure_ascii=False), self._failed)


class _Lines:
    """A line for each twentieth of the copy, the worker's notices, and the sums."""

    def __init__(self) -> None:
        self._step = 0

    def end(self, target: Path, end: Event) -> None:
        done = end["progress"]
        if done["resumed_bytes"] == done["total_bytes"]:
            _show_end(f"{target}: complete already, nothing was copied, digest {end['digest']}")
            return
        _show_end(
            f"{target}: {size(done['read_bytes'])} read, {size(done['written_bytes'])} written, "
            f"{size(done['zero_bytes'])} zero, digest {end['digest']}"
        )

    def event(self, event: Event) -> None:
        if event["event"] == "notice":
            say(event["message"], err=True)
            return
        progress = event["progress"]
        total = progress["total_bytes"]
        percent = 100 * progress["done_bytes"] / total if total else 100
        if int(percent // _PERCENT_STEP) > self._step:
            self._step = int(percent // _PERCENT_STEP)
            say(f"{percent:3.0f} % {rate(progress['bytes_per_second'])}", err=True)
