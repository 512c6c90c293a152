"""The engine on its real queue: what it keeps, and for how long."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.orchestrator.engine import Engine
from services.orchestrator.signals import Signals
from services.orchestrator.tick import NextTick

# Every table with a row per tick.
_TABLES = ("workflow_status", "workflow_input", "workflow_output")


class Running:
    """An engine whose ticks end at once, but for those of "held"."""

    def __init__(self, directory: Path) -> None:
        self.signals = Signals()
        self.release = threading.Event()
        self.ran: list[tuple[str, int]] = []
        self._database = directory / "v2c.sqlite3.ticks"
        self.engine = Engine(f"sqlite:///{directory}/v2c.sqlite3", self._run, self.signals)
        self.engine.start()

    def _run(self, migration_id: str, number: int) -> NextTick | None:
        self.ran.append((migration_id, number))
        if migration_id == "held":
            self.release.wait(30)
        if migration_id == "defect":
            raise RuntimeError("a defect")
        return None

    def submit(self, migration_id: str, number: int, delay_seconds: float = 0) -> None:
        self.engine.submit(NextTick(migration_id, number, delay_seconds))

    def kept(self, table: str = "workflow_status") -> set[str]:
        """The ids of the ticks in a table of the queue's database."""
        connection = sqlite3.connect(self._database)
        try:
            return {row[0] for row in connection.execute(f"SELECT workflow_uuid FROM {table}")}  # noqa: S608
        finally:
            connection.close()

    def finished(self) -> int:
        """How many ticks have ended."""
        connection = sqlite3.connect(self._database)
        try:
            query = "SELECT count(*) FROM workflow_status WHERE completed_at IS NOT NULL"
            return int(connection.execute(query).fetchone()[0])
        finally:
            connection.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    try:
        yield running
    finally:
        running.release.set()
        running.signals.stop()
        running.engine.stop(5)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def test_finished_ticks_go_and_those_still_to_run_stay(running: Running) -> None:
    for number in range(5):
        running.submit("vm", number)
    running.submit("defect", 0)
    running.submit("held", 0)
    running.submit("vm", 5, delay_seconds=3600)
    wait_for(lambda: running.finished() == 6 and ("held", 0) in running.ran)
    now = datetime.now(UTC)
    assert running.engine.forget_finished(now - timedelta(hours=1)) == 0
    assert running.engine.forget_finished(now + timedelta(seconds=1)) == 6
    assert running.kept() == {"held.0", "vm.5"}
    for table in _TABLES:
        assert running.kept(table) <= {"held.0", "vm.5"}
    running.release.set()
    wait_for(lambda: running.finished() == 1)
    running.submit("vm", 6)
    wait_for(lambda: ("vm", 6) in running.ran)


def test_more_than_a_batch_goes_in_one_call(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.orchestrator.engine._BATCH", 3)
    for number in range(8):
        running.submit("vm", number)
    wait_for(lambda: running.finished() == 8)
    assert running.engine.forget_finished(datetime.now(UTC) + timedelta(seconds=1)) == 8
    assert running.kept() == set()
