"""Faults around a transfer: full state folders, callers that give up, cancels during the end."""

import asyncio
import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.config import Secret
from services.disk_agent.engine.progress import Progress
from services.disk_agent.resources.record import State
from services.disk_agent.servicer import DiskServicer
from services.disk_agent.servicers.transfers import TransferDefaults, TransferServicer
from services.disk_agent.storage.errors import PoolBusy
from services.disk_agent.transfer_failures import SourceFailed
from services.disk_agent.transfers.errors import TransferRunning
from services.disk_agent.transfers.rates import RateShares
from services.disk_agent.transfers.registry import Transfers
from services.disk_agent.transfers.store import TransferStore
from services.disk_agent.transfers.supervisor import Event
from services.disk_agent.transfers.transfer import Transfer
from services.disk_agent.worker.modes import Mode
from services.disk_agent.worker.order import NbdSpec, TransferOrder
from services.disk_agent.worker.range_sets import RangeSets
from v2c.disk.v1 import disk_pb2 as pb

IMAGE = "/pool/a.qcow2"
ORDER = TransferOrder("a", Mode.FULL, NbdSpec("nbd:"), IMAGE, 1 << 20, "vm-1/2000", "s", 0)


class Worker:
    """A worker that runs until a test ends it."""

    def __init__(self, rate: int) -> None:
        self.rates = [rate]
        self.commands: list[str] = []
        self.followed = False
        self._end: asyncio.Future[Event] = asyncio.get_running_loop().create_future()

    def command(self, name: str, **values: int) -> None:
        self.commands.append(name)
        self.rates += values.values()
        if name in ("stop", "cancel"):
            self.fail()

    async def run(self, on_event: Callable[[Event], None]) -> Event:
        self.followed = True
        return await self._end

    async def stop(self, command: str = "stop") -> None:
        self.command(command)

    def fail(self) -> None:
        if not self._end.done():
            failure = SourceFailed("gone").failure.to_wire()
            self._end.set_result({"event": "end", "failure": failure, "digest": "", "progress": {}})


class Agent:
    """Transfers over a store whose saves a test can fail or block."""

    def __init__(self, folder: Path) -> None:
        self.store = TransferStore(folder)
        self.workers: list[Worker] = []
        self.launched: dict[str, Any] = {}
        self.launching = asyncio.Event()
        self.launching.set()
        self.transfers = Transfers(
            self.store,
            self,
            RangeSets(self.store.ranges_dir),
            rates=RateShares(transfer_rate=50),
        )
        self._save = self.store.save

    async def launch(self, order: TransferOrder, *, rate: int, **others: Any) -> Worker:
        self.launched = others
        await self.launching.wait()
        self.workers.append(Worker(rate))
        return self.workers[-1]

    def saving(self, save: Callable[[Transfer], None] | None) -> None:
        """Have a function called before each save; None for no function."""

        def both(transfer: Transfer) -> None:
            if save is not None:
                save(transfer)
            self._save(transfer)

        self.store.save = both  # type: ignore[method-assign]

    async def until(self, state: State) -> None:
        async with asyncio.timeout(5):
            async for transfer in self.transfers.watch("a"):
                if transfer.state is state:
                    return

    async def failed(self) -> None:
        await self.transfers.start(ORDER)
        await self.until(State.RUNNING)
        self.workers[-1].fail()
        await self.until(State.FAILED)


def _full(_transfer: Transfer) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_state_folder_that_is_full_does_not_lose_the_worker(tmp_path: Path) -> None:
    agent = Agent(tmp_path)

    def full_once_it_runs(transfer: Transfer) -> None:
        if transfer.state is State.RUNNING:
            _full(transfer)

    agent.saving(full_once_it_runs)
    await agent.transfers.start(ORDER)
    await agent.until(State.RUNNING)
    await asyncio.sleep(0.05)
    assert agent.workers[0].followed
    assert agent.transfers.get("a").state is State.RUNNING
    await agent.transfers.stop()


async def test_a_start_that_could_not_be_saved_may_be_repeated(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    await agent.failed()
    agent.saving(_full)
    with pytest.raises(OSError, match="No space"):
        await agent.transfers.start(ORDER)
    agent.saving(None)
    await agent.transfers.start(ORDER)
    await agent.until(State.RUNNING)
    assert len(agent.workers) == 2
    await agent.transfers.stop()


async def test_a_failed_transfer_is_cancelled_although_the_state_folder_is_full(
    tmp_path: Path,
) -> None:
    """An undo cancels first and deletes the image then, which may be what makes room."""
    agent = Agent(tmp_path)
    await agent.failed()
    agent.saving(_full)
    with pytest.raises(OSError, match="No space"):
        await agent.transfers.cancel("a")
    assert (await agent.transfers.cancel("a")).state is State.CANCELLED


async def test_a_caller_that_gives_up_leaves_no_half_finished_start(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    await agent.failed()
    saving, go_on = threading.Event(), threading.Event()

    def slow(_transfer: Transfer) -> None:
        saving.set()
        go_on.wait(5)

    agent.saving(slow)
    start = asyncio.create_task(agent.transfers.start(ORDER))
    await asyncio.to_thread(saving.wait, 5)
    start.cancel()
    await asyncio.sleep(0.05)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await start
    agent.saving(None)
    await agent.transfers.start(ORDER)
    await agent.until(State.RUNNING)
    await agent.transfers.stop()


async def test_a_cancel_while_the_end_is_saved_counts(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    await agent.transfers.start(ORDER)
    await agent.until(State.RUNNING)
    saving, go_on = threading.Event(), threading.Event()

    def slow(transfer: Transfer) -> None:
        if transfer.state is State.FAILED:
            saving.set()
            go_on.wait(5)

    agent.saving(slow)
    agent.workers[0].fail()
    await asyncio.to_thread(saving.wait, 5)
    cancel = asyncio.create_task(agent.transfers.cancel("a"))
    await asyncio.sleep(0.05)
    go_on.set()
    assert (await cancel).state is State.CANCELLED


async def test_a_stop_reaches_a_worker_that_is_being_started(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    agent.launching.clear()
    await agent.transfers.start(ORDER)
    await asyncio.sleep(0.05)
    stop = asyncio.create_task(agent.transfers.stop())
    await asyncio.sleep(0.05)
    agent.launching.set()
    async with asyncio.timeout(5):
        await stop
    assert agent.workers[0].commands == ["stop"]


async def test_records_of_an_image_with_a_running_transfer_are_not_removed(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    await agent.transfers.start(ORDER)
    map_path = agent.store.map_path(IMAGE)
    map_path.touch()
    with pytest.raises(TransferRunning, match="a is running"):
        await agent.transfers.forget_image(IMAGE)
    assert map_path.exists()
    await agent.transfers.stop()
    await agent.transfers.forget_image(IMAGE)
    assert not map_path.exists()


async def test_no_repr_shows_a_password(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    await agent.transfers.start(ORDER, password=Secret("plain:a-password"))
    await agent.until(State.RUNNING)
    assert agent.launched["password"].get_secret_value() == "a-password"
    assert "a-password" not in repr(agent.launched)
    await agent.transfers.stop()


def test_a_password_in_a_call_is_not_resolved_as_a_reference() -> None:
    servicer = TransferServicer()  # type: ignore[abstract]
    servicer._defaults = TransferDefaults(
        "vc.test", "user", Secret("plain:a-password"), "", 443, "", 4, 1 << 20
    )
    assert "a-password" not in repr(servicer._defaults)
    given = servicer._password(pb.VddkSource(password="env:HOME"))
    assert given.get_secret_value() == "env:HOME"
    default = servicer._password(pb.VddkSource())
    assert default.get_secret_value() == "a-password"
    elsewhere = servicer._password(pb.VddkSource(server="other.test"))
    assert elsewhere.get_secret_value() == ""


def test_counters_of_another_version_are_left_out() -> None:
    wire = {**Progress(total_bytes=5).to_wire(), "counted_later": 1.5}
    assert Progress.from_wire(wire) == Progress(total_bytes=5)


class Mounted:
    """A pool that would be unmounted, if what works there allows it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def release(self, pool_id: str, at_work: Callable[[Path], str]) -> None:
        if busy := at_work(self.directory):
            raise PoolBusy(message=f"{pool_id}: {busy}")


class NoConversions:
    def at_work_in(self, directory: Path) -> str:
        return ""


async def test_a_pool_is_not_released_from_a_transfers_start_to_its_end(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    servicer: Any = DiskServicer.__new__(DiskServicer)
    servicer._transfers, servicer._conversions = agent.transfers, NoConversions()
    request = pb.ReleasePoolRequest(id="p1")
    agent.launching.clear()
    await agent.transfers.start(ORDER)
    for directory, busy in (("/pool", True), ("/pool2", False)):
        servicer._pools = Mounted(Path(directory))
        if busy:
            # It is queued and has not opened its image yet.
            with pytest.raises(PoolBusy, match="p1: transfer a"):
                await servicer.ReleasePool(request, None)
        else:
            await servicer.ReleasePool(request, None)
    agent.launching.set()
    await agent.until(State.RUNNING)
    agent.workers[-1].fail()
    await agent.until(State.FAILED)
    servicer._pools = Mounted(Path("/pool"))
    await servicer.ReleasePool(request, None)
