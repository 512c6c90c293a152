"""The live table of `v2c run` on a terminal."""

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from cli.show.names import (
    ENDED,
    PASS_STAGES,
    by_state,
    delta_passes,
    speed,
    stage_name,
    state_name,
    vm_label,
)
from cli.show.outcome import outcome
from cli.show.units import count, duration, rate, size
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

__all__ = ["LiveDisplay", "frame"]

_REFRESHES_PER_SECOND = 4
_BAR = 24
_NAME = 22
_MARKS = {
    pb.STATE_QUEUED: ("·", "dim"),
    pb.STATE_RUNNING: ("●", "cyan"),
    pb.STATE_WAITING: ("◷", "blue"),
    pb.STATE_PAUSED: ("‖", "yellow"),
    pb.STATE_FAILED: ("✗", "bold red"),
    pb.STATE_CANCELLED: ("–", "yellow"),
    pb.STATE_ROLLED_BACK: ("↶", "yellow"),
    pb.STATE_DONE: ("✓", "bold green"),
}
# What is looked at first when the terminal is too low for all VMs.
_PRIORITY = {pb.STATE_FAILED: 0, pb.STATE_RUNNING: 1, pb.STATE_WAITING: 2, pb.STATE_PAUSED: 3}
_LOWEST_PRIORITY = 4


class LiveDisplay:
    """Redraws itself four times a second; a context manager."""

    def __init__(
        self,
        console: Console,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._now = now
        self._clock = clock
        self._started = clock()
        self._migrations: dict[str, pb.Migration] = {}
        self._live = Live(
            self,
            console=console,
            refresh_per_second=_REFRESHES_PER_SECOND,
            vertical_overflow="crop",
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = (options.height or console.height) - 1
        # The redrawing thread iterates while the event loop adds: take a copy first.
        migrations = list(self._migrations.values())
        yield from frame(
            migrations,
            now=self._now(),
            elapsed_seconds=self._clock() - self._started,
            width=options.max_width,
            height=height,
        )

    def show(self, migration: pb.Migration) -> None:
        """Keep a snapshot for the next redraw."""
        self._migrations[migration.id] = migration

    def note(self, text: str) -> None:
        """A line above the table."""
        self._live.console.print(Text(text, style="yellow"))

    def end(self, migrations: list[pb.Migration]) -> None:
        """Leave how it ended below the table's last state."""
        self._live.stop()
        for migration in migrations:
            style = "green" if migration.state == pb.STATE_DONE else "red"
            self._console.print(Text(outcome(migration), style=style))


def frame(
    migrations: Iterable[pb.Migration],
    *,
    now: datetime,
    elapsed_seconds: float,
    width: int,
    height: int,
) -> list[Text]:
    """The table's lines: a heading, then each VM with its disks, as many as fit in `height`."""
    every = list(migrations)
    lines = [_heading(every, elapsed_seconds)]
    room = height - len(lines)
    shown: dict[str, list[Text]] = {}
    hidden = 0
    for migration in sorted(every, key=_priority):
        block = _block(migration, now)
        # Keep a line for the number of those not shown.
        if len(block) > room - 1 and len(block) > 1:
            block = block[:1]
        if len(block) > room - 1 and len(shown) < len(every) - 1:
            hidden += 1
            continue
        shown[migration.id] = block
        room -= len(block)
    for migration in every:
        lines += shown.get(migration.id, [])
    if hidden:
        lines.append(Text(f"  … and {count(hidden, 'more VM')}", style="dim"))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _priority(migration: pb.Migration) -> int:
    return _PRIORITY.get(migration.state, _LOWEST_PRIORITY)


def _heading(migrations: list[pb.Migration], elapsed_seconds: float) -> Text:
    running = [each for each in migrations if each.state == pb.STATE_RUNNING]
    together = rate(sum(each.transfer_rate_bytes_per_second for each in running))
    parts = [count(len(migrations), "VM"), by_state(migrations), together]
    parts.append(duration(elapsed_seconds))
    heading = Text("v2c  ", style="bold")
    return heading.append(" · ".join(part for part in parts if part), style="not bold")


def _block(migration: pb.Migration, now: datetime) -> list[Text]:
    mark, style = _MARKS.get(migration.state, ("?", "dim"))
    line = Text(f"{mark} ", style=style)
    line.append(_cell(vm_label(migration), _NAME), style="bold not dim")
    line.append(f" {_cell(_where(migration), _BAR)}", style="not bold")
    if migration.state not in ENDED and migration.state != pb.STATE_QUEUED:
        line.append(f" {migration.overall_progress:3.0f} %", style="not bold")
        line.append(f"  {speed(migration):>10}", style="not bold")
    if migration.delta_passes:
        line.append(f"  {delta_passes(migration)}", style="not bold")
    line.append_text(_downtime(migration, now))
    lines = [line]
    if migration.state == pb.STATE_FAILED:
        lines.append(Text(f"    {migration.error.message}", style="red"))
    elif migration.state not in ENDED:
        lines += _disks(migration)
        if migration.activity:
            lines.append(Text(f"    {migration.activity}", style="dim"))
    return lines


def _where(migration: pb.Migration) -> str:
    stage = stage_name(migration.stage)
    if migration.state == pb.STATE_DONE:
        return "done"
    if migration.state == pb.STATE_QUEUED:
        return "queued"
    # The mark shows that it failed; this stage's name implies that it waits.
    if migration.state in {pb.STATE_RUNNING, pb.STATE_FAILED}:
        return stage
    if migration.stage == pb.STAGE_AWAITING_SHUTDOWN_ACTION:
        return stage
    return f"{stage}, {state_name(migration.state)}"


def _downtime(migration: pb.Migration, now: datetime) -> Text:
    downtime = migration.downtime
    if not migration.HasField("downtime") or not downtime.HasField("start_time"):
        return Text()
    if downtime.HasField("end_time"):
        return Text(f"  downtime {duration(downtime.total_seconds)}", style="not bold")
    seconds = (now - downtime.start_time.ToDatetime(UTC)).total_seconds()
    return Text(f"  downtime {duration(seconds)}", style="bold red")


def _disks(migration: pb.Migration) -> list[Text]:
    if migration.stage not in PASS_STAGES or migration.state != pb.STATE_RUNNING:
        return []
    # Before a pass has begun its size is not known: "0 B of" the whole disk would be wrong.
    if not any(disk.done_bytes for disk in migration.disks):
        return []
    return [_disk(disk) for disk in migration.disks if disk.total_bytes]


def _disk(disk: pb.DiskProgress) -> Text:
    line = Text(_cell(f"    disk {disk.unit}", _NAME + 2) + " ", style="dim")
    filled = round(_BAR * min(max(disk.percent, 0.0), 100.0) / 100)
    line.append("━" * filled, style="cyan not dim")
    line.append("─" * (_BAR - filled))
    line.append(f" {disk.percent:3.0f} %", style="not dim")
    line.append(f"  {rate(disk.rate_bytes_per_second):>10}", style="not dim")
    line.append(f"  {size(disk.done_bytes)} of {size(disk.total_bytes)}")
    if disk.eta_seconds >= 0 and disk.percent < 100:
        line.append(f", {duration(disk.eta_seconds)} left")
    return line


def _cell(text: str, width: int) -> str:
    """`text` in exactly `width` cells, cut with an ellipsis; wide characters count twice."""
    if cell_len(text) > width:
        return set_cell_size(text, width - 1) + "…"
    return set_cell_size(text, width)
