"""How an agent's rate is divided, and when a window of the calendar is in force."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest
import structlog

from services.config import Secret, load_config, parse_config
from services.disk_agent.server import rates_from
from services.disk_agent.transfers.limits_file import LimitsFile
from services.disk_agent.transfers.rates import RateShares, RateWindow
from services.disk_agent.transfers.registry import Transfers
from services.disk_agent.transfers.store import TransferStore
from services.disk_agent.transfers.supervisor import Event
from services.disk_agent.worker.modes import Mode
from services.disk_agent.worker.order import NbdSpec, TransferOrder
from services.disk_agent.worker.range_sets import RangeSets

WEEKDAYS = frozenset(range(5))
WORK = RateWindow(8 * 60, 18 * 60, WEEKDAYS, 20)
NIGHT = RateWindow(22 * 60, 6 * 60, frozenset({4}), 5)


CONFIG = """
vcenter: {host: vc, user: u}
migration: {vddk_path: /vddk}
cloudstack: {endpoint: cs, api_key: a, secret_key: b}
"""


def at(day: int, time: str) -> datetime:
    """A time in the week that begins on Monday the 4th."""
    return datetime.fromisoformat(f"2031-08-{4 + day:02}T{time}")


@pytest.mark.parametrize(
    ("window", "day", "time", "holds"),
    [
        (WORK, 0, "08:00", True),
        (WORK, 0, "07:59:59", False),
        (WORK, 4, "17:59:59", True),
        (WORK, 4, "18:00", False),
        (WORK, 5, "12:00", False),
        (NIGHT, 4, "22:00", True),
        (NIGHT, 5, "05:59", True),
        (NIGHT, 5, "06:00", False),
        (NIGHT, 4, "05:59", False),
        (NIGHT, 5, "22:00", False),
        (RateWindow(0, 1440, frozenset({6}), 5), 6, "23:59", True),
        (RateWindow(0, 0, frozenset({6}), 5), 6, "12:00", True),
        (RateWindow(0, 0, frozenset({6}), 5), 0, "00:00", False),
        (RateWindow(540, 540, frozenset({6}), 5), 0, "08:59", True),
    ],
)
def test_a_window_belongs_to_the_day_it_begins_on(
    window: RateWindow, day: int, time: str, holds: bool
) -> None:
    assert window.holds(at(day, time)) is holds


def test_the_lowest_ceiling_wins() -> None:
    both = RateWindow(12 * 60, 13 * 60, WEEKDAYS, 10)
    for time, ceiling in [("07:00", 15), ("11:00", 15), ("12:30", 10)]:
        now = at(0, time)
        assert (
            RateShares(15, [WORK, both], partial(datetime.fromtimestamp, now.timestamp())).ceiling()
            == ceiling
        )
    assert RateShares(0, [WORK], lambda: at(6, "12:00")).ceiling() == 0


def test_rate_that_one_transfer_does_not_use_is_shared_by_the_others() -> None:
    shares = RateShares(90)
    assert shares.shares({"a": 0, "b": 0, "c": 0}) == {"a": 30, "b": 30, "c": 30}
    assert shares.shares({"a": 0, "b": 10, "c": 0}) == {"a": 40, "b": 10, "c": 40}
    assert shares.shares({"a": 0, "b": 10, "c": 100}) == {"a": 40, "b": 10, "c": 40}
    assert shares.shares({"a": 20}) == {"a": 20}
    assert RateShares().shares({"a": 0, "b": 7}) == {"a": 0, "b": 7}


def test_the_configs_limits_are_megabytes_in_local_time() -> None:
    config = parse_config(
        CONFIG
        + """
limits:
  agent_mbps: 100
  windows: [{from: "08:00", to: "24:00", days: [Mon, friday], rate_mbps: 2.5}]
""",
        "config.yaml",
    )
    (window,) = rates_from(config.limits)._windows
    assert window == RateWindow(480, 1440, frozenset({0, 4}), 2_500_000)


class _Worker:
    """A worker that runs until it is stopped, and keeps the limits that it was sent."""

    def __init__(self, rate: int) -> None:
        self.rates = [rate]
        self.commands: list[str] = []
        self._end = asyncio.Event()

    def command(self, name: str, **values: int) -> None:
        self.commands.append(name)
        self.rates += values.values()

    async def run(self, on_event: Callable[[Event], None]) -> Event:
        await self._end.wait()
        return {"event": "end", "failure": None, "digest": "d", "progress": {}}

    async def stop(self, command: str = "stop") -> None:
        self._end.set()


class _Launcher:
    def __init__(self) -> None:
        self.workers: dict[str, _Worker] = {}

    async def launch(
        self, order: TransferOrder, *, map_path: Path, ranges_path: str, rate: int, password: Secret
    ) -> _Worker:
        worker = self.workers[order.transfer_id] = _Worker(rate)
        return worker

    async def limited(self, **expected: int) -> None:
        """Wait until every worker has been sent its limit."""
        for _ in range(500):
            found = {name: worker.rates[-1] for name, worker in self.workers.items()}
            if found == expected:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(found)


def _order(name: str) -> TransferOrder:
    return TransferOrder(name, Mode.FULL, NbdSpec("nbd:"), f"/{name}.qcow2", 1 << 20, name, "s", 0)


async def test_running_transfers_follow_the_calendar_and_each_other(tmp_path: Path) -> None:
    store, launcher = TransferStore(tmp_path), _Launcher()
    now = [at(0, "07:59")]
    shares = RateShares(100, [WORK], lambda: now[0])
    transfers = Transfers(store, launcher, RangeSets(store.ranges_dir), rates=shares)
    workers = launcher.workers
    keeping = asyncio.create_task(transfers.keep_rates())

    try:
        await transfers.start(_order("a"))
        await launcher.limited(a=100)
        await transfers.start(_order("b"), rate=30)
        await launcher.limited(a=70, b=30)
        await transfers.set_rate("b", 10)
        await launcher.limited(a=90, b=10)
        now[0] = at(0, "08:00")
        await launcher.limited(a=10, b=10)
        assert transfers.get("a").effective_rate == 10
        await transfers.pause("b", paused=True)
        await launcher.limited(a=20, b=10)
        assert workers["b"].commands[-1] == "pause"
        await transfers.pause("b", paused=False)
        await launcher.limited(a=10, b=10)
        assert workers["b"].commands[-1] == "resume"
        # Each limit once: a worker that gets one again forgets what it read beyond it.
        assert workers["b"].rates == [30, 10]
        now[0] = at(0, "18:00")
        await launcher.limited(a=90, b=10)
        await transfers.cancel("b")
        await launcher.limited(a=100, b=10)
    finally:
        keeping.cancel()
        await transfers.stop()


async def test_changed_limits_apply_to_running_transfers(tmp_path: Path) -> None:
    store, launcher = TransferStore(tmp_path), _Launcher()
    shares = RateShares(transfer_rate=50)
    transfers = Transfers(store, launcher, RangeSets(store.ranges_dir), rates=shares)
    others: list[RateShares | Exception] = []

    def changed() -> RateShares | None:
        found = others.pop(0) if others else None
        if isinstance(found, Exception):
            raise found
        return found

    keeping = asyncio.create_task(transfers.keep_rates(changed))

    try:
        await transfers.start(_order("default"))
        await transfers.start(_order("own"), rate=40)
        await transfers.start(_order("set"))
        await transfers.set_rate("set", 45)
        await launcher.limited(default=50, own=40, set=45)
        others.append(RuntimeError("a defect in reading limits does not stop the calendar"))
        others.append(RateShares(transfer_rate=20))
        await launcher.limited(default=20, own=40, set=45)
        assert transfers.get("default").rate_bytes_per_second == 20
        others.append(RateShares(30, transfer_rate=20))
        await launcher.limited(default=10, own=10, set=10)
        await transfers.start(_order("late"))
        assert transfers.get("late").rate_bytes_per_second == 20
        others.append(RateShares())
        await launcher.limited(default=0, own=40, set=45, late=0)
    finally:
        keeping.cancel()
        await transfers.stop()


def test_a_changed_file_is_adopted_and_one_with_a_mistake_is_not(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"

    def written(limits: str) -> None:
        # As another file, as editors write it: it then has another inode number.
        new = tmp_path / "new"
        new.write_text(CONFIG + limits)
        new.rename(config)

    written("")
    file = LimitsFile(config, load_config(config).limits)
    assert file.changed() is None
    written("limits: {agent_mbps: 20}\n")
    # The file may not be complete yet.
    assert file.changed() is None
    found = file.changed()
    assert found is not None
    assert rates_from(found).ceiling() == 20_000_000
    assert file.changed() is None
    for mistake in ("limits: {agent_mbsp: 10}\n", "limits: [\n", "limits: {agent_mbps: -1}\n"):
        written(mistake)
        with structlog.testing.capture_logs() as logs:
            assert (file.changed(), file.changed()) == (None, None)
        assert [entry["action"] for entry in logs] == ["limits.refused"]
        assert "limits" in logs[0]["event"]
    written("# a comment\nlimits: {agent_mbps: 20}\n")
    assert (file.changed(), file.changed()) == (None, None)
    config.unlink()
    assert (file.changed(), file.changed()) == (None, None)
    written("")
    assert file.changed() is None
    found = file.changed()
    assert found is not None
    assert rates_from(found).ceiling() == 0
