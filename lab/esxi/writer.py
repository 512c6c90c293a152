"""A guest that keeps changing its disks: ``python -m lab.esxi.writer --help``.

Writes pseudo-random blocks, zeroes and trims to given areas at a low rate, most of them to a small
hot part, and logs each one after it completed. On SIGTERM it shuts down: it ends the present write,
makes a last batch of writes marked ``final``, flushes everything and exits with code 0.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TextIO

import nbd

from lab.esxi.model import BLOCK_BYTES
from lab.esxi.write_log import Kind, WriteEntry, content, continue_log, digest

_ALIGN = 4096
_LENGTHS = [4096, 4096, 8192, 16384, 65536, 131072]
_KINDS: list[Kind] = ["data", "zero_data", "write_zeroes", "trim"]
_KIND_WEIGHTS = [80, 5, 10, 5]
_HOT_SHARE = 0.1
_HOT_WRITES = 0.8
_FLUSH_SECONDS = 1.0
_FINAL_WRITES = 3


@dataclass(frozen=True)
class Area:
    """A part of a disk that the writer may change, in bytes, 4 KiB-aligned."""

    key: int
    start: int
    length: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """``KEY:START:LENGTH``. Raises ValueError."""
        key, start, length = (int(part) for part in text.split(":"))
        if start < 0 or start % _ALIGN or length < _ALIGN or length % _ALIGN:
            raise ValueError(f"area {text!r} is not made of whole 4 KiB blocks")
        return cls(key, start, length)


class Writer:
    """Changes areas of connected disks; ``disks`` has (export name, handle, area) for each area."""

    def __init__(
        self,
        disks: Sequence[tuple[str, nbd.NBD, Area]],
        log: TextIO,
        *,
        seed: int,
        first_seq: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._disks = disks
        self._log = log
        self._seed = seed
        self._seq = first_seq
        self._random = random.Random(f"{seed}:{first_seq}")
        self._clock = clock

    def write_one(self) -> int:
        """Make one random write and return its length. Raises nbd.Error."""
        export, handle, area = self._random.choice(self._disks)
        kind = self._random.choices(_KINDS, _KIND_WEIGHTS)[0]
        offset, length = self._place(area)
        if kind == "trim":
            # Only whole blocks are trimmed: a smaller trim would keep their data.
            first = -(-area.start // BLOCK_BYTES)
            blocks = (area.start + area.length) // BLOCK_BYTES - first
            if blocks < 1:
                kind = "write_zeroes"
            else:
                offset = (first + self._random.randrange(blocks)) * BLOCK_BYTES
                length = BLOCK_BYTES
        self._write(export, handle, offset, length, kind, final=False)
        return length

    def write_last_batch(self) -> None:
        """The writes of a guest that shuts down; the first one is at each area's start."""
        for export, handle, area in self._disks:
            places = [(area.start, min(area.length, 2 * _ALIGN))]
            places += [self._place(area) for _ in range(_FINAL_WRITES - 1)]
            for offset, length in places:
                self._write(export, handle, offset, length, "data", final=True)
        self.flush()

    def flush(self) -> None:
        """Flush every disk. Raises nbd.Error."""
        for _, handle, _ in self._disks:
            handle.flush()

    def _place(self, area: Area) -> tuple[int, int]:
        length = min(self._random.choice(_LENGTHS), area.length)
        room = (area.length - length) // _ALIGN
        if self._random.random() < _HOT_WRITES:
            room = int(room * _HOT_SHARE)
        return area.start + self._random.randint(0, room) * _ALIGN, length

    def _write(
        self, export: str, handle: nbd.NBD, offset: int, length: int, kind: Kind, *, final: bool
    ) -> None:
        data = content(self._seed, self._seq, length, kind, final=final)
        if kind == "write_zeroes":
            handle.zero(length, offset)
        elif kind == "trim":
            handle.trim(length, offset)
        else:
            handle.pwrite(data, offset)
        entry = WriteEntry(
            self._seq, self._seed, export, offset, length, kind, digest(data), final, self._clock()
        )
        self._log.write(entry.as_line() + "\n")
        self._log.flush()
        self._seq += 1


def run(writer: Writer, stop_asked: Callable[[float], bool], rate_bytes: float) -> None:
    """Write at ``rate_bytes`` a second until asked to stop, then the last batch.

    ``stop_asked(seconds)`` waits that long for SIGTERM or SIGINT.
    """
    due = flushed = time.monotonic()
    while not stop_asked(max(0.0, due - time.monotonic())):
        due = max(due, time.monotonic() - 1.0) + writer.write_one() / rate_bytes
        if time.monotonic() - flushed > _FLUSH_SECONDS:
            writer.flush()
            flushed = time.monotonic()
    writer.write_last_batch()


def _connect(socket: str, export: str) -> nbd.NBD:
    handle = nbd.NBD()
    handle.set_export_name(export)
    handle.connect_unix(socket)
    return handle


def _key(export: str) -> int:
    return int(export.rpartition("/")[2])


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lab.esxi.writer", description=__doc__)
    parser.add_argument("--socket", required=True, help="unix socket of the ESXi side's nbdkit")
    parser.add_argument("--export", required=True, action="append", help="<vm>/<key>, repeatable")
    parser.add_argument(
        "--area",
        required=True,
        action="append",
        type=Area.parse,
        metavar="KEY:START:LENGTH",
        help="bytes that may be changed, repeatable; a disk without an area is left alone",
    )
    parser.add_argument("--log", required=True, type=Path, help="appended to, one JSON a write")
    parser.add_argument("--rate-mbps", type=float, default=2.0, help="MB/s in all (default 2)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    keys = {_key(export) for export in arguments.export}
    if stray := [area for area in arguments.area if area.key not in keys]:
        parser.error(f"no --export for {stray[0]}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; returns 1 if a write or flush fails."""
    arguments = _arguments(argv)
    # Signals are blocked and waited for, so that none interrupts a write or its log line.
    orders = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, orders)
    first_seq = continue_log(arguments.log)
    try:
        handles = {export: _connect(arguments.socket, export) for export in arguments.export}
        disks = [
            (export, handle, area)
            for export, handle in handles.items()
            for area in arguments.area
            if area.key == _key(export)
        ]
        with arguments.log.open("a") as log:
            writer = Writer(disks, log, seed=arguments.seed, first_seq=first_seq)
            run(
                writer,
                lambda seconds: signal.sigtimedwait(orders, seconds) is not None,
                arguments.rate_mbps * 1e6,
            )
        for handle in handles.values():
            handle.shutdown()
    except nbd.Error as error:
        print(f"writer stops: {error.string}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
