"""An orchestrator without gRPC and DBOS: the real ticker, controls and store on memory agents."""

import functools
import heapq
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select

from services.config import parse_config
from services.orchestrator.controls.controls import Controls
from services.orchestrator.controls.marker_watch import MarkerWatch
from services.orchestrator.controls.submission import Submission
from services.orchestrator.database import tables
from services.orchestrator.database.store import Store
from services.orchestrator.database.tables import DebtKind
from services.orchestrator.database.views import EventView, MigrationView
from services.orchestrator.handlers import HANDLERS
from services.orchestrator.handlers.undo import undo
from services.orchestrator.housekeeping import Housekeeping
from services.orchestrator.ports.vmware import PowerState
from services.orchestrator.signals import Signals
from services.orchestrator.stages import Stage, State
from services.orchestrator.tick import NextTick
from services.orchestrator.ticker import Ticker
from services.orchestrator.work.passes import release_snapshot
from tests.rigs.orchestrator.agents import (
    Crash,
    Memory,
    MemoryVm,
    content,
    machine,
    memory_agents,
)

_CONFIG = """
vcenter: {{host: vc.example.com, user: admin, password: secret}}
migration: {{vddk_path: /vddk, control_dir: {directory}, parallel_vms: {parallel_vms}}}
cloudstack: {{endpoint: cs.example.com, api_key: key, secret_key: secret}}
cloudstack_defaults:
  {{zoneid: zone-1, clusterid: cluster-1, storageid: pool-1, networkid: net-1,
   serviceofferingid: offering-1, diskofferingid: disks-1}}
disk: {{verify_target: {verify}}}
storage: {{unmount_when_done: {unmount}}}
database: {{url: "sqlite:///{directory}/v2c.sqlite3"}}
"""
# A migration that needs more ticks than this goes round in circles.
_TICK_LIMIT = 400


class FakeClock:
    """Time that passes only when it is advanced."""

    def __init__(self) -> None:
        self.now = datetime(2031, 5, 4, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class FakeSignals(Signals):
    """Waiting inside a handler advances the clock; `on_wait` may act as an operator."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock
        self.on_wait: Callable[[], None] = lambda: None

    def wait(self, migration_id: str, seconds: float) -> None:
        self._clock.advance(seconds)
        self.on_wait()


def spec_text(
    name: str = "web-1", moref: str = "vm-1", *, nics: bool = True, **migration: Any
) -> str:
    """A spec of one machine; keywords are keys of its section `migration`."""
    lines = ["vm:", f"  name: {name}"] + ([f"  moref: {moref}"] if moref else [])
    settings = {"delta_interval": 300, "finalize_settle_seconds": 15, **migration}
    lines += ["migration:"] + [f"  {key}: {value}" for key, value in settings.items()]
    if nics:
        lines += [
            "target:",
            "  cloudstack:",
            "    nic_mappings:",
            '      "4000": {networkid: net-1}',
            '      "4001": {networkid: net-2}',
        ]
    return "\n".join(lines) + "\n"


@functools.cache
def _template() -> tuple[Path, tempfile.TemporaryDirectory[str]]:
    """An empty database of the present schema; copying it is quicker than making it."""
    directory = tempfile.TemporaryDirectory(prefix="v2c-template-")
    path = Path(directory.name) / "template.sqlite3"
    store = Store(f"sqlite:///{path}")
    store.upgrade_schema()
    store.close()
    return path, directory


@contextmanager
def new_rig(
    memory: Memory | None = None,
    *,
    verify: bool = True,
    parallel_vms: int = 3,
    unmount: bool = False,
) -> "Iterator[Rig]":
    """A rig whose database is in memory where the host can, and gone afterwards."""
    memory_disk = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="v2c-rig-", dir=memory_disk) as directory:
        rig = Rig(
            Path(directory), memory, verify=verify, parallel_vms=parallel_vms, unmount=unmount
        )
        try:
            yield rig
        finally:
            rig.close()


class Rig:
    """One orchestrator over its database; `restart` makes a new one on the same."""

    def __init__(
        self,
        directory: Path,
        memory: Memory | None = None,
        *,
        verify: bool,
        parallel_vms: int,
        unmount: bool = False,
    ) -> None:
        self.directory = directory
        self.memory = memory or memory_agents()
        self.world, self.vcenter = self.memory.world, self.memory.vcenter
        self.storage, self.cloudstack = self.memory.storage, self.memory.cloudstack
        self.clock = FakeClock()
        text = _CONFIG.format(
            directory=directory, verify=verify, parallel_vms=parallel_vms, unmount=unmount
        )
        self.config = parse_config(text, "config.yaml")
        shutil.copy(_template()[0], directory / "v2c.sqlite3")
        # Die at this point (a call or a commit, counted from the start), and again every
        # `crash_every` points.
        self.crash_at = 0
        self.crash_every = 0
        self.crashes = 0
        self.points = 0
        self.twice = False
        self.views: list[MigrationView] = []
        self._latest: dict[str, MigrationView] = {}
        self._known: dict[tuple[str, int], str] = {}
        # Every call takes a moment: no two things happen at the same time.
        self.world.before.append(lambda name, args: self.clock.advance(0.001))
        self.world.before.append(self._check_debts)
        self.world.after.append(lambda name, args: self._point())
        self._start()

    def _start(self) -> None:
        self.store = Store(self.config.database.url.get_secret_value(), self.clock)
        self.store.listen(self._committed)
        self.signals = FakeSignals(self.clock)
        self.submission = Submission(self.store, self.config)
        self.queue: list[tuple[datetime, int, NextTick]] = []
        self._order = 0
        self.controls = Controls(self.store, self.signals, self.submit)
        self.markers = MarkerWatch(self.store, self.controls)
        self.ticker = Ticker(
            self.store,
            self.memory.agents,
            self.config,
            self.signals,
            HANDLERS,
            undo,
            release_snapshot,
            self.submission.read,
        )

    def close(self) -> None:
        """Close the database."""
        self.store.close()

    # -- what tests do

    def add(self, vm: MemoryVm | None = None) -> MemoryVm:
        """Put a machine into vCenter."""
        return self.vcenter.add(vm or machine())

    def submit_spec(self, text: str, *, start: bool = True) -> str:
        """Submit a spec of one machine; the migration's id."""
        self.clock.advance(0.001)
        (view,) = self.submission.submit(text, "spec.yaml").migrations
        if start:
            self.controls.start(view.id, "tester")
        return view.id

    def restart(self) -> None:
        """Start a new orchestrator on the database, as after a crash of the process."""
        self.store.close()
        self._start()
        for tick in self.controls.recover():
            self.submit(tick)

    def submit(self, tick: NextTick) -> None:
        """The queue's side of `Engine.submit`."""
        if any(t.migration_id == tick.migration_id and t.number == tick.number
               for _, _, t in self.queue):  # fmt: skip
            return
        self._order += 1
        due = self.clock.now + timedelta(seconds=tick.delay_seconds)
        heapq.heappush(self.queue, (due, self._order, tick))

    def step(self) -> bool:
        """Run the tick that is due next; False when there is none."""
        if not self.queue:
            return False
        due, _, tick = heapq.heappop(self.queue)
        self.clock.now = max(self.clock.now, due)
        following = self.ticker.run(tick.migration_id, tick.number)
        if self.twice:
            calls = len(self.world.calls)
            again = self.ticker.run(tick.migration_id, tick.number)
            self.world.rule(len(self.world.calls) == calls, "a stale tick did something")
            self.world.rule(
                (again and again.number) == (following and following.number),
                f"a stale tick was followed by {again}, not {following}",
            )
        if following is not None:
            self.submit(following)
        return True

    def run(self, until: Callable[[MigrationView], bool], migration_id: str = "") -> MigrationView:
        """Run ticks until a migration's snapshot meets `until`; restart after a crash."""
        for _ in range(_TICK_LIMIT):
            view = self.view(migration_id)
            if until(view):
                return view
            try:
                if not self.step():
                    raise AssertionError(f"nothing is due, and {_described(view)}")
            except Crash:
                self.restart()
        raise AssertionError(f"no end in sight: {_described(self.view(migration_id))}")

    def to_stage(self, stage: Stage, migration_id: str = "") -> MigrationView:
        """Run until a stage is entered."""
        return self.run(lambda view: view.stage is stage, migration_id)

    def to_state(self, state: State, migration_id: str = "") -> MigrationView:
        """Run until a state is reached."""
        return self.run(lambda view: view.state is state, migration_id)

    def to_waiting_delta(self, passes: int = 0) -> MigrationView:
        """Run until the migration waits between two delta passes."""
        return self.run(
            lambda v: (
                v.stage is Stage.DELTA and v.state is State.WAITING and v.delta_passes >= passes
            )
        )

    def finish(self, migration_id: str = "") -> MigrationView:
        """Run to the first delta wait, ask for cutover, run to the end."""
        self.to_waiting_delta()
        id_ = self.view(migration_id).id
        self.controls.finalize(id_, "tester", now=False)
        return self.to_state(State.DONE, id_)

    def tidy(self, *, again: bool = True) -> None:
        """What housekeeping does about mounts. Crashes are survived by restarts."""
        while True:
            keeper = Housekeeping(
                self.store,
                self.memory.agents.disk,
                lambda _: 0,
                timedelta(days=30),
                unmount_when_done=self.config.storage.unmount_when_done,
            )
            try:
                keeper.tidy_mounts(again=again)
            except Crash:
                self.restart()
                continue
            return

    def view(self, migration_id: str = "") -> MigrationView:
        """A migration's snapshot; without an id, of the only one."""
        if migration_id:
            return self._latest[migration_id]
        (only,) = self._latest.values()
        return only

    def events(self, action: str) -> list[EventView]:
        """Audit events of one action."""
        return [e for e in self.store.events(limit=10_000) if e.action == action]

    def row(self, migration_id: str = "") -> tables.Migration:
        """The row behind a snapshot."""
        with self.store.reading() as session:
            return session.get_one(tables.Migration, self.view(migration_id).id)

    def check_done(self, vm: MemoryVm) -> None:
        """The end of a successful migration, as its operator sees it."""
        assert self.world.broken == []
        (target,) = (t for t in self.cloudstack.vms.values() if t.name == vm.name)
        assert len(target.volumes) == len(vm.disks)
        assert vm.power is PowerState.OFF
        assert vm.snapshots == {}
        view = self.view(self.store.find(vm_moref=vm.moref))
        assert view.open_debts == 0
        for disk, shown in zip(vm.disks, view.disks, strict=True):
            assert content(self.storage.images[shown.target_path].blocks) == content(disk.blocks)

    # -- rules that hold at every moment

    def _point(self) -> None:
        self.points += 1
        if self.points == self.crash_at:
            self.crash_at += self.crash_every
            self.crashes += 1
            raise Crash(f"at point {self.points}")

    def _check_debts(self, name: str, args: tuple[Any, ...]) -> None:
        """Check that the debt of a thing is recorded before the call that makes it."""
        match name:
            case "vmware.create_snapshot":
                kind, thing = DebtKind.SNAPSHOT, args[1]
            case "disk.create_image":
                kind, thing = DebtKind.IMAGE, f"/pools/{args[0]}/{args[1]}"
            case "disk.ensure_pool" if self.config.storage.unmount_when_done:
                kind, thing = DebtKind.MOUNT, args[0].id
            case _:
                return
        query = select(tables.Debt.name).where(tables.Debt.kind == kind)
        with self.store.reading() as session:
            names = session.scalars(query).all()
        self.world.rule(thing in names, f"{thing} is made but no debt")

    def _committed(self, view: MigrationView) -> None:
        self.views.append(view)
        self._latest[view.id] = view
        present = select(
            tables.Disk.migration_id,
            tables.Disk.key,
            tables.Disk.label,
            tables.Disk.image_path,
            tables.Disk.change_id,
        )
        with self.store.reading() as session:
            for disk in session.execute(present):
                if self._known.get((disk.migration_id, disk.key), "") != disk.change_id:
                    self._known[disk.migration_id, disk.key] = disk.change_id
                    image = self.storage.images[disk.image_path]
                    frozen = self.vcenter.frozen[f"{disk.key} {disk.change_id}"]
                    self.world.rule(
                        content(image.blocks) == content(frozen),
                        f"{disk.label} is not what it was at {disk.change_id}",
                    )
        self._point()


def _described(view: MigrationView) -> str:
    return f"the migration is {view.state} in {view.stage}: {view.activity} {view.error}"
