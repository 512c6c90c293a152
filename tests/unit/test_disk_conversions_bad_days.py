"""Faults around a conversion: callers that give up, commands that arrive during a save."""

import asyncio
import errno
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from services.disk_agent.conversions.conversion import Conversion, ConversionRequest
from services.disk_agent.conversions.failures import NoOperatingSystem
from services.disk_agent.conversions.messages import Reported
from services.disk_agent.conversions.registry import Conversions
from services.disk_agent.conversions.store import ConversionStore
from services.disk_agent.resources.record import State
from services.disk_agent.storage.images import Image
from services.disk_agent.transfers.store import TransferStore


class Agent:
    """Conversions over a store whose saves a test can block, and a virt-v2v that a test ends."""

    def __init__(self, folder: Path) -> None:
        self.image = folder / "boot.qcow2"
        self.image.touch()
        self.request = ConversionRequest("c", (self.image,))
        self.store = ConversionStore(folder / "work", folder / "state")
        self.fails = False
        self.commits = 0
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.saves_at_once = 0
        self.most_saves_at_once = 0
        self.conversions = Conversions(
            self.store, self, self, TransferStore(folder / "state"), parallel=1
        )
        self._save = self.store.save
        self.saving(None)

    async def convert(
        self, request: ConversionRequest, on_change: Callable[[Reported], None]
    ) -> Reported:
        await self.may_end.wait()
        if self.fails:
            raise NoOperatingSystem("nothing there")
        return Reported()

    async def commit(self, request: ConversionRequest) -> None:
        self.commits += 1

    def inspect(self, path: Path) -> Image:
        return Image(path, 1, 1, locked=False, backing_file="", compat="1.1")

    def check_unlocked(self, path: Path) -> None:
        pass

    def saving(self, before: Callable[[Conversion], None] | None) -> None:
        """Have a function called before each save; None for no function."""

        def both(conversion: Conversion) -> None:
            self.saves_at_once += 1
            self.most_saves_at_once = max(self.saves_at_once, self.most_saves_at_once)
            try:
                if before is not None:
                    before(conversion)
                self._save(conversion)
            finally:
                self.saves_at_once -= 1

        self.store.save = both  # type: ignore[method-assign]

    def kept(self) -> str:
        """The state in the conversion's file."""
        content = json.loads((self.store.folder("c") / "conversion.json").read_text())
        return str(content["state"])

    async def until(self, state: State) -> None:
        async with asyncio.timeout(5):
            async for conversion in self.conversions.watch("c"):
                if conversion.state is state:
                    return


class Held:
    """Blocks the saves of a state until a test lets them continue."""

    def __init__(self, *states: State) -> None:
        self.states = states
        self.begun, self.may_end = threading.Event(), threading.Event()

    def __call__(self, conversion: Conversion) -> None:
        if conversion.state in self.states:
            self.begun.set()
            self.may_end.wait(5)


@pytest.mark.parametrize("failed_before", [False, True])
async def test_a_caller_that_gives_up_leaves_no_half_finished_start(
    tmp_path: Path, *, failed_before: bool
) -> None:
    agent = Agent(tmp_path)
    if failed_before:
        agent.fails = True
        await agent.conversions.start(agent.request)
        await agent.until(State.FAILED)
        agent.fails = False
    held = Held(State.QUEUED)
    agent.saving(held)
    start = asyncio.create_task(agent.conversions.start(agent.request))
    await asyncio.to_thread(held.begun.wait, 5)
    start.cancel()
    again = asyncio.create_task(agent.conversions.start(agent.request))
    await asyncio.sleep(0.05)
    held.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await start
    await again
    await agent.until(State.SUCCEEDED)
    assert agent.most_saves_at_once == 1
    assert agent.kept() == "succeeded"


async def test_a_cancel_while_the_start_is_saved_does_not_tear_the_file(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    held = Held(State.RUNNING)
    agent.saving(held)
    await agent.conversions.start(agent.request)
    await asyncio.to_thread(held.begun.wait, 5)
    cancel = asyncio.create_task(agent.conversions.cancel("c"))
    await asyncio.sleep(0.05)
    held.may_end.set()
    assert (await cancel).state is State.CANCELLED
    assert agent.most_saves_at_once == 1
    assert agent.kept() == "cancelled"


async def test_a_cancel_while_the_end_is_saved_counts(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    agent.fails = True
    held = Held(State.FAILED)
    agent.saving(held)
    await agent.conversions.start(agent.request)
    await asyncio.to_thread(held.begun.wait, 5)
    cancel = asyncio.create_task(agent.conversions.cancel("c"))
    await asyncio.sleep(0.05)
    held.may_end.set()
    assert (await cancel).state is State.CANCELLED
    assert agent.kept() == "cancelled"


async def test_a_state_folder_that_is_full_does_not_end_a_conversion(tmp_path: Path) -> None:
    agent = Agent(tmp_path)

    def full_once_it_runs(conversion: Conversion) -> None:
        if conversion.state is State.RUNNING and not conversion.committing:
            raise OSError(errno.ENOSPC, "No space left on device")

    agent.saving(full_once_it_runs)
    await agent.conversions.start(agent.request)
    await agent.until(State.SUCCEEDED)
    assert agent.commits == 1


async def test_nothing_is_committed_before_it_is_on_disk(tmp_path: Path) -> None:
    agent = Agent(tmp_path)

    def full_before_the_commit(conversion: Conversion) -> None:
        if conversion.committing:
            raise OSError(errno.ENOSPC, "No space left on device")

    agent.saving(full_before_the_commit)
    await agent.conversions.start(agent.request)
    await agent.until(State.FAILED)
    assert agent.commits == 0
    agent.saving(None)
    await agent.conversions.start(agent.request)
    await agent.until(State.SUCCEEDED)
    assert agent.commits == 1
    assert agent.kept() == "succeeded"


async def test_snapshots_without_changes_have_higher_revisions(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    agent.may_end.clear()
    await agent.conversions.start(agent.request)
    await agent.until(State.RUNNING)
    revisions = []
    async with asyncio.timeout(10):
        async for conversion in agent.conversions.watch("c"):
            revisions.append(conversion.revision)
            if len(revisions) == 2:
                agent.may_end.set()
    assert revisions == sorted(set(revisions))
    assert len(revisions) >= 3


def test_a_fence_is_never_lowered(tmp_path: Path) -> None:
    fences = TransferStore(tmp_path)
    fences.raise_fence("/pool/a.qcow2", 5)
    fences.raise_fence("/pool/a.qcow2", 4)
    assert fences.fence("/pool/a.qcow2") == 5


async def test_a_conversion_is_at_work_in_its_images_directory_until_it_ends(
    tmp_path: Path,
) -> None:
    agent = Agent(tmp_path)
    agent.may_end.clear()
    await agent.conversions.start(agent.request)
    assert agent.conversions.at_work_in(tmp_path) == "conversion c"
    assert agent.conversions.at_work_in(tmp_path / "other") == ""
    agent.may_end.set()
    async with asyncio.timeout(5):
        async for conversion in agent.conversions.watch("c"):
            if conversion.state is State.SUCCEEDED:
                break
    assert agent.conversions.at_work_in(tmp_path) == ""
