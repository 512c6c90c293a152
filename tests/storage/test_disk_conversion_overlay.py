"""Conversions on real images, with a scripted virt-v2v-in-place."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from services.disk_agent.conversions.errors import (
    ConversionBusy,
    ConversionEnded,
    ConversionExists,
    ConversionInvalid,
    ConversionNotFound,
)
from services.disk_agent.host.commands import Completed, HostCommands
from services.disk_agent.resources.errors import StaleEpoch
from services.disk_agent.resources.record import State
from services.disk_agent.storage.errors import ImageLocked, ImageNotFound, PoolNotFound
from tests.rigs.disk.conversion import (
    CONVERTS,
    Rig,
    check_image,
    digest,
    ended,
    pattern_at,
    process,
    processes_below,
    request,
    wait_until,
)

HANGS = 'write(disks[0])\nreport("message", "Inspecting the source")\ntime.sleep(60)\n'


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    rig = Rig(tmp_path)
    rig.script(CONVERTS)
    return rig


async def test_a_converted_guest_is_in_the_image_and_nothing_else_is_left(rig: Rig) -> None:
    image = rig.image()
    agent = await rig.agent()
    first, existed = await agent.start(request(image))
    steps, revisions = [], []
    async for snapshot in agent.watch("vm-1:conversion"):
        steps.append((snapshot.state, snapshot.step))
        revisions.append(snapshot.revision)
    last = agent.get("vm-1:conversion")
    assert not existed
    assert first.state is State.QUEUED
    assert last.state is State.SUCCEEDED, last.failure
    assert last.guest_os == "Testix 7"
    assert last.requires_uefi
    assert last.warnings == ("mind the gap",)
    assert last.end_time is not None
    assert last.log_path.exists()
    assert (State.RUNNING, "Committing") in steps
    assert revisions == sorted(revisions)
    assert pattern_at(image, "0xcc")
    assert pattern_at(image, "0x11", "0")
    check_image(image)
    assert rig.left_over() == []


async def test_only_the_boot_disk_is_shown_unless_all_are_asked_for(rig: Rig) -> None:
    boot, data = rig.image(), rig.image("data.qcow2")
    before = digest(data)
    agent = await rig.agent()
    await agent.start(request(boot, data))
    assert (await ended(agent)).state is State.SUCCEEDED
    assert len(rig.calls()[0]["disks"]) == 1  # type: ignore[arg-type]
    assert digest(data) == before
    assert await agent.converted(data) is None
    third, fourth = rig.image("c.qcow2"), rig.image("d.qcow2")
    await agent.start(request(third, fourth, id="all", all_disks=True))
    assert (await ended(agent, "all")).state is State.SUCCEEDED
    assert pattern_at(third, "0xcc")
    assert pattern_at(fourth, "0xcc")


@pytest.mark.parametrize(
    ("body", "reason", "retryable"),
    [
        (
            'write(disks[0])\nreport("error", "no bootloader detected")\nsys.exit(1)',
            "GUEST_BOOTLOADER_MISSING",
            False,
        ),
        (
            "write(disks[0])\n"
            "sys.exit('virt-v2v-in-place: error: libguestfs error: guestfs_launch failed')",
            "APPLIANCE_FAILED",
            True,
        ),
        (
            'write(disks[0])\nreport("message", "Converting Windows Server 2022 to run on KVM")\n'
            'report("info", "This guest does not have virtio drivers installed.")',
            "VIRTIO_DRIVERS_MISSING",
            False,
        ),
        ("write(disks[0])\nos.kill(os.getpid(), 9)", "CONVERSION_FAILED", False),
    ],
)
async def test_a_failed_conversion_leaves_the_image_bit_by_bit(
    rig: Rig, body: str, reason: str, retryable: bool
) -> None:
    image = rig.image()
    before = digest(image)
    rig.script(body)
    agent = await rig.agent()
    await agent.start(request(image))
    last = await ended(agent)
    assert last.state is State.FAILED
    assert last.failure is not None
    assert (last.failure.reason, last.failure.retryable) == (reason, retryable)
    assert digest(image) == before
    assert rig.left_over() == []
    assert await agent.converted(image) is None
    rig.script(CONVERTS)
    _, existed = await agent.start(request(image))
    assert existed
    assert (await ended(agent)).state is State.SUCCEEDED


async def test_a_conversion_that_takes_too_long_is_ended_with_all_its_children(rig: Rig) -> None:
    image = rig.image()
    before = digest(image)
    stubborn = f"sleep 60; # {rig.root}"
    rig.script(
        f"daemon({stubborn!r})\n"
        f"subprocess.Popen(['sh', '-c', 'trap \"\" TERM; ' + {stubborn!r}])\n" + HANGS
    )
    agent = await rig.agent()
    await agent.start(request(image, timeout_seconds=1.0))
    last = await ended(agent)
    assert last.failure is not None
    assert last.failure.reason == "CONVERSION_TIMEOUT"
    assert "Inspecting the source" in last.failure.message
    assert digest(image) == before
    assert rig.left_over() == []


async def test_a_cancelled_conversion_is_not_started_again(rig: Rig) -> None:
    image = rig.image()
    before = digest(image)
    rig.script(HANGS)
    agent = await rig.agent()
    await agent.start(request(image))
    async for snapshot in agent.watch("vm-1:conversion"):
        if snapshot.step == "Inspecting the source":
            break
    cancelled = await agent.cancel("vm-1:conversion")
    assert cancelled.state is State.CANCELLED
    assert digest(image) == before
    assert rig.left_over() == []
    with pytest.raises(ConversionEnded):
        await agent.start(request(image))
    assert (await agent.cancel("vm-1:conversion")).state is State.CANCELLED


async def test_conversions_wait_for_a_slot_and_can_be_cancelled_there(rig: Rig) -> None:
    first, second = rig.image("a.qcow2"), rig.image("b.qcow2")
    rig.script(HANGS)
    agent = await rig.agent(parallel=1)
    await agent.start(request(first, id="a"))
    await agent.start(request(second, id="b"))
    async for snapshot in agent.watch("a"):
        if snapshot.step:
            break
    assert agent.get("b").state is State.QUEUED
    assert (await agent.cancel("b")).state is State.CANCELLED
    await agent.cancel("a")
    assert len(rig.calls()) == 1
    assert [each.id for each in agent.list()] == ["b", "a"]


async def test_an_image_is_converted_once_even_under_another_id(rig: Rig) -> None:
    image = rig.image()
    agent = await rig.agent()
    await agent.start(request(image))
    await ended(agent)
    restarted = await rig.agent()
    again, existed = await restarted.start(request(image))
    other, other_existed = await restarted.start(request(image, id="other"))
    assert (again.state, existed) == (State.SUCCEEDED, True)
    assert (other.state, other_existed) == (State.SUCCEEDED, False)
    assert (other.guest_os, other.requires_uefi) == ("Testix 7", True)
    assert len(rig.calls()) == 1
    converted = await restarted.converted(image)
    assert converted is not None
    assert converted.conversion_id == "vm-1:conversion"


async def test_a_new_image_of_the_same_name_is_converted_anew(rig: Rig) -> None:
    image = rig.image()
    agent = await rig.agent()
    await agent.start(request(image))
    await ended(agent)
    await agent.forget_image(image)
    image.unlink()
    rig.image()
    assert await agent.converted(image) is None
    await agent.start(request(image, id="second"))
    await ended(agent, "second")
    assert len(rig.calls()) == 2


class FailingCommit(HostCommands):
    """Commands whose first commits write half of the data and fail."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def run(self, command: Sequence[str], *, timeout_seconds: float) -> Completed:
        if command[:2] == ["qemu-img", "commit"] and self.failures > 0:
            self.failures -= 1
            return Completed(1, "", "qemu-img: No space left on device")
        return super().run(command, timeout_seconds=timeout_seconds)


async def test_an_interrupted_commit_is_finished_and_not_converted_again(rig: Rig) -> None:
    rig.commands = FailingCommit(2)
    image = rig.image()
    agent = await rig.agent()
    await agent.start(request(image))
    failed = await ended(agent)
    assert failed.failure is not None
    assert failed.failure.reason == "COMMIT_INTERRUPTED"
    assert failed.failure.retryable
    # A half-written image is refused to delta passes and to other conversions, and its pool stays
    # mounted.
    assert agent.at_work_in(image.parent) == "conversion vm-1:conversion"
    assert await agent.converted(image) is not None
    with pytest.raises(ConversionBusy):
        await agent.start(request(image, id="other"))
    assert (await agent.cancel("vm-1:conversion")).state is State.FAILED
    restarted = await rig.agent()
    assert await restarted.converted(image) is not None
    await restarted.start(request(image))
    assert (await ended(restarted)).state is State.FAILED
    await restarted.start(request(image))
    last = await ended(restarted)
    assert last.state is State.SUCCEEDED
    assert last.requires_uefi
    assert pattern_at(image, "0xcc")
    assert len(rig.calls()) == 1
    assert rig.left_over() == []


async def test_a_stopped_agent_ends_its_conversions_retryable(rig: Rig) -> None:
    image = rig.image()
    before = digest(image)
    rig.script(HANGS)
    agent = await rig.agent()
    await agent.start(request(image))
    async for snapshot in agent.watch("vm-1:conversion"):
        if snapshot.step == "Inspecting the source":
            break
    await agent.stop()
    last = agent.get("vm-1:conversion")
    assert last.failure is not None
    assert (last.failure.reason, last.failure.retryable) == ("CONVERSION_INTERRUPTED", True)
    assert digest(image) == before
    assert rig.left_over() == []


KILLED_AGENT = """
import asyncio
from pathlib import Path
from tests.rigs.disk.conversion import Rig, request

async def main():
    rig = Rig(Path({root!r}))
    agent = await rig.agent()
    await agent.start(request(Path({image!r})))
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("reaper_too", [False, True])
async def test_nothing_survives_a_killed_agent(rig: Rig, reaper_too: bool) -> None:
    image = rig.image()
    before = digest(image)
    stubborn = f"sleep 60; # {rig.root}"
    rig.script(f"daemon({stubborn!r})\n" + HANGS)
    program = KILLED_AGENT.format(root=str(rig.root), image=str(image))
    with process(sys.executable, "-c", program):
        await asyncio.to_thread(wait_until, lambda: len(rig.calls()) == 1)
        if reaper_too:
            reapers = [line for line in processes_below(rig.root) if "conversions.reaper" in line]
            os.kill(int(reapers[0].split()[0]), signal.SIGKILL)
    if not reaper_too:
        await asyncio.to_thread(wait_until, lambda: processes_below(rig.root) == [])
    rig.script(CONVERTS)
    restarted = await rig.agent()
    last = restarted.get("vm-1:conversion")
    assert last.state is State.FAILED
    assert last.failure is not None
    assert (last.failure.reason, last.failure.retryable) == ("CONVERSION_INTERRUPTED", True)
    assert digest(image) == before
    assert processes_below(rig.root) == []
    assert list(rig.store.folders.glob("*/overlay-*")) == []
    await restarted.start(request(image))
    assert (await ended(restarted)).state is State.SUCCEEDED


async def test_refusals_before_anything_is_started(rig: Rig) -> None:
    image = rig.image()
    agent = await rig.agent()
    with pytest.raises(ConversionInvalid) as invalid:
        await agent.start(request(id="../x"))
    assert invalid.value.metadata["field"] == "conversion_id,image_paths"
    with pytest.raises(ImageNotFound):
        await agent.start(request(rig.pool / "none.qcow2"))
    with pytest.raises(PoolNotFound):
        await agent.start(request(Path("/etc/hostname")))
    with pytest.raises(ConversionNotFound):
        agent.get("vm-1:conversion")
    assert rig.calls() == []
    await agent.start(request(image), epoch=2)
    with pytest.raises(ConversionExists):
        await agent.start(request(image, all_disks=True), epoch=2)
    with pytest.raises(ConversionBusy):
        await agent.start(request(image, id="other"), epoch=2)
    with pytest.raises(StaleEpoch):
        await agent.cancel("vm-1:conversion", epoch=1)
    await ended(agent)


async def test_a_locked_image_is_refused(rig: Rig) -> None:
    image = rig.image()
    agent = await rig.agent()
    socket = rig.root / "nbd.sock"
    with process("qemu-nbd", "-t", "-f", "qcow2", "-k", str(socket), str(image)):
        await asyncio.to_thread(wait_until, socket.exists)
        with pytest.raises(ImageLocked):
            await agent.start(request(image))


async def test_a_missing_virt_v2v_is_named_in_the_failure(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = rig.image()
    agent = await rig.agent()
    rig.script("")
    (rig.root / "bin" / "virt-v2v-in-place").unlink()
    monkeypatch.setattr(
        "services.disk_agent.conversions.virt_v2v._TOOL", "virt-v2v-in-place-not-there"
    )
    await agent.start(request(image))
    last = await ended(agent)
    assert last.failure is not None
    assert last.failure.reason == "TOOL_MISSING"
    assert rig.left_over() == []


async def test_virt_v2v_gets_its_own_directories_and_no_secrets(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VC_PASSWORD", "hunter2")
    iso = rig.root / "virtio-win.iso"
    iso.touch()
    image = rig.image()
    agent = await rig.agent()
    await agent.start(request(image, virtio_iso=iso))
    await ended(agent)
    environment = rig.calls()[0]["env"]
    assert isinstance(environment, dict)
    assert "VC_PASSWORD" not in environment
    assert environment["TMPDIR"].startswith(str(rig.root / "run"))
    assert environment["VIRTIO_WIN"] == str(iso)
