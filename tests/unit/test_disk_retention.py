"""Which records of ended work a disk agent removes, and which it must keep."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from services.disk_agent.conversions.conversion import Conversion, ConversionRequest, Converted
from services.disk_agent.conversions.registry import Conversions
from services.disk_agent.conversions.run import ConversionRun
from services.disk_agent.conversions.store import ConversionStore
from services.disk_agent.engine.ranges import Range
from services.disk_agent.host.commands import HostCommands
from services.disk_agent.host.state_file import read_state, write_state
from services.disk_agent.resources.record import State
from services.disk_agent.retention import Pruned, Retention
from services.disk_agent.storage.images import Images
from services.disk_agent.storage.pools import Pools
from services.disk_agent.transfers.registry import Transfers
from services.disk_agent.transfers.store import TransferStore
from services.disk_agent.transfers.supervisor import WorkerLauncher
from services.disk_agent.transfers.transfer import Transfer
from services.disk_agent.worker.modes import Mode
from services.disk_agent.worker.order import TransferOrder
from services.disk_agent.worker.range_sets import RangeSets

DAY = 86400.0
NOW = 1_900_000_000.0
CUTOFF = NOW - 30 * DAY
OLD, RECENT = CUTOFF - DAY, CUTOFF + DAY


class Agent:
    """The files of one agent, and the parts of an agent that keep records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "pool").mkdir()
        self.store = TransferStore(folder / "state")
        self.ranges = RangeSets(self.store.ranges_dir)
        self.conversion_store = ConversionStore(folder / "work", folder / "state")
        self.promises = folder / "state" / "expected-bytes.json"

    def image(self, name: str) -> str:
        """The path of an image; its file is empty, because these tests do not read it."""
        path = self.folder / "pool" / f"{name}.qcow2"
        path.touch()
        return str(path)

    def transfer(
        self, image: str, number: int, end_time: float, state: State = State.SUCCEEDED
    ) -> str:
        """Make the files of a delta pass that ended at `end_time`."""
        transfer_id = f"{Path(image).stem}-p{number}"
        order = TransferOrder(
            transfer_id=transfer_id,
            mode=Mode.RANGES,
            source=None,
            target_path=image,
            capacity_bytes=1 << 20,
            disk_id="vm-1/2000",
            snapshot_id=f"snapshot-{number}",
            pass_number=number,
            ranges_id=f"{transfer_id}-ranges",
        )
        self.put_ranges(order.ranges_id, end_time)
        self.store.save(Transfer(order, state, 1, end_time - 60, end_time=end_time))
        self.store.map_path(image).write_text("a chunk map")
        self.store.raise_fence(image, 1)
        promised = read_state(self.promises)
        write_state(self.promises, {**(promised if isinstance(promised, dict) else {}), image: 9})
        return transfer_id

    def put_ranges(self, ranges_id: str, stored: float) -> None:
        self.ranges.put(ranges_id, [Range(0, 512)], 1 << 20)
        os.utime(self.ranges.path(ranges_id), (stored, stored))

    def conversion(
        self,
        image: str,
        end_time: float,
        state: State = State.SUCCEEDED,
        *,
        committing: bool = False,
    ) -> Path:
        """Make the files of a conversion that ended at `end_time`; returns its log."""
        request = ConversionRequest(f"{Path(image).stem}-convert", (Path(image),))
        folder = self.conversion_store.folder(request.conversion_id)
        log = folder / "virt-v2v.log"
        conversion = Conversion(request, state, 1, end_time - 60, log)
        self.conversion_store.save(replace(conversion, end_time=end_time, committing=committing))
        for name in (log, folder / "domain.xml", folder / "messages.jsonl"):
            name.write_text("a log")
        if state is State.SUCCEEDED:
            mark = Converted(request.conversion_id, end_time)
            self.conversion_store.mark(Path(image), mark)
        return log

    async def prune(self, images: Iterable[str] = (), ranges: Iterable[str] = ()) -> Pruned:
        """Start an agent on these files and have it remove records of before CUTOFF."""
        transfers = Transfers(self.store, WorkerLauncher, self.ranges, clock=lambda: NOW)  # type: ignore[arg-type]
        commands = HostCommands()
        pools = Pools(commands, self.folder / "state", nfs_options="rw")
        images_ = Images(commands, pools, self.folder / "state")
        conversions = Conversions(
            self.conversion_store,
            ConversionRun,  # type: ignore[arg-type]
            images_,
            self.store,
            clock=lambda: NOW,
        )
        await transfers.recover()
        await conversions.recover()
        retention = Retention(transfers, conversions, self.ranges, images_)
        return await retention.prune(set(images), set(ranges), CUTOFF)

    def left(self) -> set[str]:
        """Every file below the folder, except the images."""
        return {
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if path.is_file() and path.parent.name != "pool"
        }

    def images(self) -> set[str]:
        return {path.name for path in (self.folder / "pool").iterdir()}

    def delete(self, image: str) -> None:
        """Delete an image without the agent."""
        Path(image).unlink()

    def transfers(self) -> set[str]:
        return {path.stem for path in (self.folder / "state" / "transfers").iterdir()}

    def range_sets(self) -> set[str]:
        return {path.stem for path in self.store.ranges_dir.iterdir()}


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path)


async def test_nothing_stays_of_an_ended_migration(agent: Agent) -> None:
    image = agent.image("web01")
    agent.transfer(image, 1, OLD - DAY)
    agent.transfer(image, 2, OLD, State.CANCELLED)
    agent.conversion(image, OLD)
    assert await agent.prune() == Pruned(transfers=2, conversions=1, range_sets=0)
    assert agent.left() == {"state/expected-bytes.json"}
    assert read_state(agent.promises) == {}
    assert not list(agent.conversion_store.folders.iterdir())
    assert agent.images() == {"web01.qcow2"}


async def test_all_records_of_an_image_in_use_stay(agent: Agent) -> None:
    image = agent.image("web01")
    agent.transfer(image, 1, OLD, State.FAILED)
    agent.conversion(image, OLD, State.FAILED)
    before = agent.left()
    assert await agent.prune([image]) == Pruned(0, 0, 0)
    assert agent.left() == before
    assert read_state(agent.promises) == {image: 9}


async def test_recent_work_keeps_all_records_of_its_image(agent: Agent) -> None:
    copied, converted = agent.image("copied"), agent.image("converted")
    agent.transfer(copied, 1, OLD)
    agent.transfer(copied, 2, RECENT)
    agent.conversion(copied, OLD)
    agent.transfer(converted, 1, OLD)
    log = agent.conversion(converted, RECENT, State.FAILED)
    before = agent.left()
    await agent.prune()
    assert agent.left() == before
    assert log.exists()


async def test_a_half_committed_image_keeps_its_overlay(agent: Agent) -> None:
    image = agent.image("web01")
    log = agent.conversion(image, OLD, State.FAILED, committing=True)
    overlay = log.with_name("overlay-0.qcow2")
    overlay.touch()
    await agent.prune()
    assert overlay.exists()
    assert log.exists()


async def test_the_last_ten_passes_of_a_machine_stay(agent: Agent) -> None:
    images = [agent.image("web01-0"), agent.image("web01-1")]
    for number in range(25):
        for image in images:
            agent.transfer(image, number, RECENT)
    await agent.prune(images)
    kept = {f"web01-{unit}-p{number}" for unit in (0, 1) for number in range(15, 25)}
    assert agent.transfers() == kept
    assert agent.range_sets() == {f"{name}-ranges" for name in kept}
    assert agent.store.map_path(images[0]).exists()


async def test_a_range_set_without_a_transfer_is_removed_unless_it_is_in_use(
    agent: Agent,
) -> None:
    for name, stored in (("waited-for", OLD), ("forgotten", OLD), ("fresh", RECENT)):
        agent.put_ranges(name, stored)
    torn = agent.store.ranges_dir / "torn.ranges.new"
    torn.touch()
    os.utime(torn, (OLD, OLD))
    assert await agent.prune(ranges=["waited-for"]) == Pruned(0, 0, range_sets=2)
    assert agent.range_sets() == {"waited-for", "fresh"}


async def test_a_missing_image_does_not_prevent_the_removal(agent: Agent) -> None:
    image = agent.image("web01")
    agent.transfer(image, 1, OLD)
    agent.conversion(image, OLD)
    agent.delete(image)
    await agent.prune()
    assert agent.left() == {"state/expected-bytes.json"}


async def test_an_interrupted_removal_is_finished_by_the_next_call(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = agent.image("web01")
    agent.transfer(image, 1, OLD)
    log = agent.conversion(image, OLD)
    points = ((TransferStore, "forget_image"), (shutil, "rmtree"), (RangeSets, "delete"))
    for owner, method in points:
        with monkeypatch.context() as broken:
            broken.setattr(owner, method, _die)
            with pytest.raises(OSError, match="dies here"):
                await agent.prune()
    await agent.prune()
    assert agent.left() == {"state/expected-bytes.json"}
    assert not log.parent.exists()


def _die(*_: object, ignore_errors: bool = False) -> None:
    if not ignore_errors:
        raise OSError("dies here")
