"""What `v2c run` shows: lines for pipes, a table for terminals, JSON for programs."""

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rich.cells import cell_len
from rich.console import Console

from cli.show.json_output import JsonDisplay, as_dict
from cli.show.live import LiveDisplay, frame
from cli.show.names import speed
from cli.show.outcome import downtime_parts, error_values, outcome
from cli.show.plain import PlainDisplay
from cli.show.units import count, duration, rate, size
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

NOW = datetime(2026, 3, 12, 14, 3, 12, tzinfo=UTC)
MB = 1_000_000


def at(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(NOW + timedelta(seconds=seconds))
    return stamp


def migration(name: str = "web01", **fields: Any) -> pb.Migration:
    fields = {
        "id": f"id-{name}",
        "vm_name": name,
        "stage": pb.STAGE_BASE_COPY,
        "state": pb.STATE_RUNNING,
        **fields,
    }
    return pb.Migration(**fields)


def copying(name: str = "web01", percent: int = 62, **fields: Any) -> pb.Migration:
    disk = pb.DiskProgress(
        unit=0,
        percent=percent,
        done_bytes=percent * 256 * MB // 100,
        total_bytes=256 * MB,
        rate_bytes_per_second=84_100_000,
        eta_seconds=1,
    )
    return migration(
        name,
        disks=[disk],
        transfer_rate_bytes_per_second=84_100_000,
        overall_progress=45,
        **fields,
    )


def lines_of(*snapshots: pb.Migration) -> list[str]:
    out = io.StringIO()
    display = PlainDisplay(out, now=lambda: NOW)
    for snapshot in snapshots:
        display.show(snapshot)
    return [line.removeprefix("14:03:12 ") for line in out.getvalue().splitlines()]


def framed(*migrations: pb.Migration, width: int = 100, height: int = 40) -> list[str]:
    lines = frame(migrations, now=NOW, elapsed_seconds=102, width=width, height=height)
    return [line.plain for line in lines]


class TestPlain:
    def test_a_line_per_change_and_none_without(self) -> None:
        first = migration(stage=pb.STAGE_FINDING_VM)

        assert lines_of(first, first, copying(percent=5), copying(percent=6)) == [
            "web01: finding_vm",
            "web01: base_copy",
        ]

    def test_progress_every_tenth(self) -> None:
        printed = lines_of(*(copying(percent=percent) for percent in (1, 9, 12, 15, 33, 100)))

        assert printed == [
            "web01: base_copy",
            "web01: base_copy 10 % of 256 MB, 84.1 MB/s",
            "web01: base_copy 30 % of 256 MB, 84.1 MB/s",
            "web01: base_copy 100 % of 256 MB, 84.1 MB/s",
        ]

    def test_a_pass_is_printed_once_with_its_bytes(self) -> None:
        done = pb.Pass(
            number=2,
            kind="delta",
            start_time=at(-3),
            end_time=at(0),
            changed_bytes=31 * MB // 10,
            read_bytes=3 * MB,
            written_bytes=2 * MB,
        )
        waiting = migration(
            stage=pb.STAGE_DELTA,
            state=pb.STATE_WAITING,
            activity="waiting 210 s for delta pass 3",
            passes=[done],
        )

        copying = migration(stage=pb.STAGE_DELTA, state=pb.STATE_RUNNING)
        assert lines_of(copying, waiting, waiting)[1:] == [
            "web01: delta: waiting 210 s for delta pass 3",
            "web01: delta pass 2 done in 0:03: 3.1 MB changed, 3.0 MB read, 2.0 MB written",
        ]
        # Whoever begins to watch later sees only what is new.
        assert lines_of(waiting, waiting) == ["web01: delta: waiting 210 s for delta pass 3"]

    def test_alternation_of_running_and_waiting_is_not_printed(self) -> None:
        waiting = migration(
            stage=pb.STAGE_DELTA, state=pb.STATE_WAITING, activity="delta pass 1 starts at 14:05"
        )
        silent = migration(stage=pb.STAGE_DELTA, state=pb.STATE_WAITING)
        running = migration(stage=pb.STAGE_DELTA)

        assert lines_of(running, waiting, running, silent, running) == [
            "web01: delta",
            "web01: delta: delta pass 1 starts at 14:05",
        ]

    def test_numbers_of_the_pass_before_are_not_printed(self) -> None:
        printed = lines_of(
            *(copying(percent=percent, stage=pb.STAGE_DELTA) for percent in (100, 100, 4, 30, 100))
        )

        assert printed[1:] == [
            "web01: delta 30 % of 256 MB, 84.1 MB/s",
            "web01: delta 100 % of 256 MB, 84.1 MB/s",
        ]

    def test_an_error_that_is_retried_is_printed_once(self) -> None:
        error = pb.Error(message="vCenter does not answer.", retryable=True)
        retried = migration(error=error)

        assert lines_of(retried, retried)[1:] == ["web01: vCenter does not answer; trying again"]

    def test_finalize_is_acknowledged(self) -> None:
        printed = lines_of(migration(), migration(finalize_requested=True))

        assert printed[-1] == "web01: finalize requested"

    def test_the_end_is_one_line_per_vm(self) -> None:
        out = io.StringIO()
        failed = migration(
            "app server 02",
            state=pb.STATE_FAILED,
            error=pb.Error(message="the pool is full.", hint="free 2 GB on pool1"),
            open_debts=1,
        )

        PlainDisplay(out).end([finished(), failed])

        done_line, failed_line = out.getvalue().splitlines()
        assert done_line == (
            "web01: done, downtime 0:42 (shutdown 5 s, converting 30 s), 2 delta passes, "
            "CloudStack VM 7c-1"
        )
        assert failed_line == (
            "app server 02: failed in base_copy: the pool is full. Free 2 GB on pool1. "
            "Then repeat v2c run or, where v2c serve runs, v2c retry --vm 'app server 02'. "
            "Still to be cleaned up: 1 thing, see v2c status"
        )


def test_only_what_runs_has_a_rate() -> None:
    paused = migration(state=pb.STATE_PAUSED, transfer_rate_bytes_per_second=84 * MB)
    assert speed(paused) == ""
    assert "MB/s" not in "".join(framed(paused))
    assert speed(copying()) == "84.1 MB/s"


def finished() -> pb.Migration:
    downtime = pb.Downtime(
        start_time=at(-60),
        end_time=at(-18),
        total_seconds=42,
        part_seconds={"shutdown": 5.2, "converting": 30.0, "verifying": 0.1},
    )
    return migration(
        stage=pb.STAGE_DONE,
        state=pb.STATE_DONE,
        downtime=downtime,
        delta_passes=2,
        target_vm_id="7c-1",
    )


def test_parts_of_a_downtime_are_in_the_order_of_time() -> None:
    names = ["shutdown", "final_sync", "verifying", "converting", "import_root_disk"]
    names += ["import_data_disk", "a_stage_of_tomorrow"]
    downtime = pb.Downtime(part_seconds=dict.fromkeys(reversed(names), 7.0))

    assert downtime_parts(downtime) == ", ".join(f"{name} 7 s" for name in names)


class TestLive:
    def test_the_table(self) -> None:
        waiting = migration(
            "app server 02",
            stage=pb.STAGE_DELTA,
            state=pb.STATE_WAITING,
            activity="waiting 210 s for delta pass 3",
            overall_progress=80,
            delta_passes=2,
        )

        assert framed(copying(), waiting) == [
            "v2c  2 VMs · 1 running, 1 waiting · 84.1 MB/s · 1:42",
            "● web01                  base_copy                 45 %   84.1 MB/s",
            "    disk 0               ━━━━━━━━━━━━━━━─────────  62 %   84.1 MB/s  "
            "159 MB of 256 MB, 0:01 left",
            "◷ app server 02          delta, waiting            80 %              2 delta passes",
            "    waiting 210 s for delta pass 3",
        ]

    def test_the_downtime_clock_runs_and_stops(self) -> None:
        running = migration(stage=pb.STAGE_FINAL_SYNC, downtime=pb.Downtime(start_time=at(-12)))

        assert framed(running)[1].endswith("downtime 0:12")
        assert framed(finished())[1].endswith("2 delta passes  downtime 0:42")

    def test_a_failure_shows_why(self) -> None:
        failed = migration(state=pb.STATE_FAILED, error=pb.Error(message="the pool is full"))

        assert framed(failed)[2] == "    the pool is full"

    def test_wide_characters_keep_the_columns(self) -> None:
        plain, wide = framed(copying("web01"))[1], framed(copying("数据库" * 9))[1]

        assert cell_len(plain.split("base_copy")[0]) == cell_len(wide.split("base_copy")[0])

    @pytest.mark.parametrize("height", [3, 5, 10, 23])
    @pytest.mark.parametrize("width", [40, 100])
    def test_a_fleet_fits_the_terminal(self, height: int, width: int) -> None:
        fleet = [migration(f"q{n}", state=pb.STATE_QUEUED) for n in range(40)]
        fleet.insert(20, copying("busy"))

        shown = framed(*fleet, width=width, height=height)

        assert len(shown) <= height
        assert all(cell_len(line) <= width for line in shown)
        assert any("busy" in line for line in shown)
        assert "more VMs" in shown[-1]

    def test_it_draws_on_a_terminal(self) -> None:
        out = io.StringIO()
        console = Console(file=out, force_terminal=True, width=100, height=20, color_system=None)

        with LiveDisplay(console) as display:
            display.show(copying())
            display.note("disk_agent is back")
            display.end([finished()])

        text = out.getvalue()
        assert "disk_agent is back" in text
        assert "base_copy" in text
        assert "web01: done, downtime 0:42" in text


class TestJson:
    def test_names_numbers_and_times_are_those_of_state_json(self) -> None:
        plain = as_dict(copying(create_time=at(0), passes=[pb.Pass(kind="base")]))

        assert plain["stage"] == "base_copy"
        assert plain["state"] == "running"
        assert plain["next_stage"] == "unspecified"
        assert plain["create_time"] == "2026-03-12T14:03:12Z"
        assert plain["end_time"] is None
        assert plain["transfer_rate_bytes_per_second"] == 84_100_000
        assert plain["disks"][0]["unit"] == 0
        assert plain["passes"][0]["kind"] == "base"
        assert as_dict(finished())["downtime"]["part_seconds"]["shutdown"] == 5.2

    def test_one_object_per_line_and_an_end(self) -> None:
        out = io.StringIO()
        display = JsonDisplay(out)
        display.show(copying())
        display.note("disk_agent is back")
        display.end([finished(), migration("b", state=pb.STATE_FAILED)])

        first, note, end = (json.loads(line) for line in out.getvalue().splitlines())
        assert (first["type"], first["vm_name"]) == ("migration", "web01")
        assert note == {"type": "note", "text": "disk_agent is back"}
        assert end == {"type": "end", "ok": False, "states": {"web01": "done", "b": "failed"}}


@pytest.mark.parametrize(
    ("message", "metadata", "shown"),
    [
        ("the pool is full", {}, ""),
        ("the pool is full", {"errno": "ENOSPC"}, "errno ENOSPC"),
        ("full: ENOSPC", {"errno": "ENOSPC"}, ""),
        (
            "too full",
            {"needed_bytes": "5000000000", "free_bytes": "1200000000", "job_id": "7"},
            "free 1.2 GB, needed 5.0 GB",
        ),
        ("differs", {"mismatches": "0:1048576 a b; " * 20, "chunks": "20"}, "chunks 20"),
        ("see the log", {"log_path": "/c/log"}, "log path /c/log"),
    ],
)
def test_the_values_of_an_error_that_its_message_does_not_have(
    message: str, metadata: dict[str, str], shown: str
) -> None:
    assert error_values(message, metadata) == shown


def test_names_and_units() -> None:
    assert [size(n) for n in (0, 999, 1000, 99_949, 159 * MB, 2_500_000_000_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "99.9 kB",
        "159 MB",
        "2.5 TB",
    ]
    assert rate(0) == ""
    assert [duration(n) for n in (0, 42.9, 725, 3723)] == ["0:00", "0:42", "12:05", "1:02:03"]
    assert count(1, "delta pass") == "1 delta pass"
    assert outcome(migration(state=pb.STATE_CANCELLED)) == "web01: cancelled in base_copy"
