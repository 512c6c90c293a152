"""The real virt-v2v-in-place on a micro-guest, which boots on virtio afterwards."""

import os
import subprocess
from pathlib import Path

import pytest

from lab.guest import build_micro_guest
from lab.guest.appliance import build_appliance
from lab.guest.boot import boot
from services.disk_agent.conversions.acceleration import KvmProbe, libguestfs_environment
from services.disk_agent.conversions.registry import Conversions
from services.disk_agent.conversions.run import ConversionHost, OverlayRun
from services.disk_agent.conversions.store import ConversionStore
from services.disk_agent.conversions.virt_v2v import find_virt_v2v
from services.disk_agent.host.commands import HostCommands
from services.disk_agent.resources.record import State
from services.disk_agent.storage.images import Images
from services.disk_agent.storage.pool import PoolMount, PoolType
from services.disk_agent.storage.pools import Pools
from services.disk_agent.transfers.store import TransferStore
from tests.rigs.disk.conversion import check_image, ended, processes_below, request


def micro_guest_image(pool: Path) -> Path:
    guest = build_micro_guest(pool / "guest.raw")
    image = pool / "web 1_disk0.qcow2"
    command = ["qemu-img", "convert", "-O", "qcow2", str(guest.image), str(image)]
    subprocess.check_call(command)
    guest.image.unlink()
    return image


def libguestfs(state: Path) -> dict[str, str]:
    kvm = KvmProbe(HostCommands(), state).works()
    # Where KVM works, the usual appliance is fast enough.
    own = {} if kvm else {"LIBGUESTFS_PATH": str(build_appliance())}
    return {**own, **libguestfs_environment(kvm, os.environ, Path("/var/tmp"))}  # noqa: S108


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_guest_is_really_converted(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    image = micro_guest_image(pool)
    commands = HostCommands()
    pools = Pools(commands, tmp_path / "state", nfs_options="rw")
    pools.ensure(PoolMount("p", PoolType.FILESYSTEM, "", pool))
    store = ConversionStore(tmp_path / "work", tmp_path / "state")
    tool, variables = find_virt_v2v(commands), libguestfs(tmp_path / "state")
    host = ConversionHost(tool, variables, tmp_path / "run", 240)
    agent = Conversions(
        store,
        OverlayRun(store, commands, lambda: host),
        Images(commands, pools, tmp_path / "state"),
        TransferStore(tmp_path / "state"),
    )
    await agent.start(request(image, id="vm-1:convert"))
    steps = [each.step async for each in agent.watch("vm-1:convert")]
    last = await ended(agent, "vm-1:convert")
    assert last.state is State.SUCCEEDED, last.failure
    assert last.guest_os.startswith("Debian 12")
    assert not last.requires_uefi
    assert "Inspecting the source" in steps
    assert processes_below(tmp_path) == []
    check_image(image)
    booted = boot(image, "virtio-blk", image_format="qcow2")
    assert booted.booted, booted.console
    assert "root on /dev/vda1" in booted.console
    # The conversion purged them.
    assert "VMware Tools" not in booted.console
