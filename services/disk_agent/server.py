"""The disk agent's process: its composition root and command line."""

import asyncio
import contextlib
import hashlib
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import grpc

from services.config import Secret
from services.config.config_model import Config
from services.config.limits_model import DAYS, Limits
from services.config.service_args import ServiceSetup, service_main
from services.disk_agent import capabilities
from services.disk_agent.conversions import leftovers
from services.disk_agent.conversions.acceleration import KvmProbe, libguestfs_environment
from services.disk_agent.conversions.registry import Conversions
from services.disk_agent.conversions.run import ConversionHost, OverlayRun
from services.disk_agent.conversions.store import ConversionStore
from services.disk_agent.conversions.virt_v2v import find_virt_v2v
from services.disk_agent.host.commands import HostCommands
from services.disk_agent.retention import Retention
from services.disk_agent.servicer import DiskServicer
from services.disk_agent.servicers.transfers import TransferDefaults
from services.disk_agent.storage.images import Images
from services.disk_agent.storage.pool import default_nfs_options
from services.disk_agent.storage.pools import Pools
from services.disk_agent.transfers.limits_file import LimitsFile
from services.disk_agent.transfers.rates import RateShares, RateWindow
from services.disk_agent.transfers.registry import Transfers
from services.disk_agent.transfers.store import TransferStore
from services.disk_agent.transfers.supervisor import ProcessLauncher
from services.disk_agent.worker.range_sets import RangeSets
from services.kit.failure import Code, ServiceError
from services.kit.server import run_service
from v2c.disk.v1 import disk_pb2, disk_pb2_grpc

_OS_RELEASE = Path("/etc/os-release")
# Without KVM a large guest with LVM was converted in four minutes; one that runs for hours hangs.
_CONVERSION_SECONDS = 7200.0
# libguestfs' own default (guestfs(3)), so that the appliance is built once per host: 12 s.
_APPLIANCE_CACHE = Path("/var/tmp")  # noqa: S108
_MEGABYTE = 10**6
_MEBIBYTE = 1 << 20
_SHA1_DIGITS = 40
# A unix socket's path has at most 107 bytes (unix(7)); a worker adds "/w-12345678/source.sock".
_RUNTIME_PATH_LIMIT = 107 - len("/w-12345678/source.sock")


def defaults_from(config: Config) -> TransferDefaults:
    """The values for fields that requests leave empty.

    Raises ConfigError if the variable or file that the password refers to is missing.
    """
    # The password is read at the start, so that a missing variable or file is noticed then.
    password = Secret(f"plain:{config.vcenter.password.get_secret_value()}")
    thumbprint = config.vcenter.thumbprint or ""
    return TransferDefaults(
        server=config.vcenter.host,
        user=config.vcenter.user,
        password=password,
        # VDDK needs SHA-1; if the config has another digest, requests bring the SHA-1 one.
        thumbprint=thumbprint if len(thumbprint) == _SHA1_DIGITS else "",
        port=config.vcenter.port,
        library_dir=str(config.migration.vddk_path),
        queue_depth=config.disk.queue_depth,
        chunk_bytes=config.disk.chunk_mb * _MEBIBYTE,
    )


def rates_from(limits: Limits) -> RateShares:
    """The agent's limit, its calendar, and the limit of each transfer, from the configuration."""
    windows = [
        RateWindow(
            _minutes(window.begin),
            _minutes(window.end),
            frozenset(DAYS.index(day) for day in window.days),
            int(window.rate_mbps * _MEGABYTE),
        )
        for window in limits.windows
    ]
    return RateShares(
        int((limits.agent_mbps or 0) * _MEGABYTE),
        windows,
        transfer_rate=int((limits.transfer_mbps or 0) * _MEGABYTE),
    )


def _minutes(time_of_day: str) -> int:
    hours, minutes = time_of_day.split(":")
    return int(hours) * 60 + int(minutes)


async def serve(setup: ServiceSetup) -> None:
    """Serve until a signal stops it. The records of an earlier process are loaded first."""
    config = setup.config
    state_dir = config.migration.control_dir / "disk-agent"
    runtime = await asyncio.to_thread(runtime_dir, state_dir)
    store = await asyncio.to_thread(TransferStore, state_dir)
    ranges = RangeSets(store.ranges_dir)
    launcher = ProcessLauncher(
        runtime,
        checkpoint_seconds=config.disk.checkpoint_seconds,
        checkpoint_bytes=config.disk.checkpoint_mb * _MEBIBYTE,
        cache=config.disk.cache,
        digest=config.disk.digest,
    )
    commands = HostCommands()
    pools = await asyncio.to_thread(_pools, commands, state_dir)
    images = Images(commands, pools, state_dir)
    kvm = KvmProbe(commands, _host_cache())
    conversion_store = await asyncio.to_thread(ConversionStore, config.migration.workdir, state_dir)
    conversion_host = partial(_conversion_host, commands, kvm, config, runtime)
    conversions = Conversions(
        conversion_store, OverlayRun(conversion_store, commands, conversion_host), images, store
    )

    async def is_converted(image: Path) -> bool:
        return await conversions.converted(image) is not None

    transfers = Transfers(
        store,
        launcher,
        ranges,
        is_converted=is_converted,
        rates=rates_from(config.limits),
    )
    servicer = DiskServicer(
        transfers=transfers,
        ranges=ranges,
        defaults=defaults_from(config),
        pools=pools,
        images=images,
        conversions=conversions,
        retention=Retention(transfers, conversions, ranges, images),
        virtio_iso=config.virt.virtio_iso,
        probe=partial(capabilities.probe, kvm),
    )

    limits_file = LimitsFile(config.path, config.limits) if config.path else None

    def changed_rates() -> RateShares | None:
        limits = limits_file.changed() if limits_file else None
        return rates_from(limits) if limits else None

    probing: list[asyncio.Task[bool]] = []
    keeping: list[asyncio.Task[None]] = []

    async def register(server: grpc.aio.Server) -> Sequence[str]:
        disk_pb2_grpc.add_DiskServiceServicer_to_server(servicer, server)
        return [disk_pb2.DESCRIPTOR.services_by_name["DiskService"].full_name]

    async def on_start() -> None:
        # Started now, because the test takes 8 s where KVM hangs.
        probing.append(asyncio.create_task(asyncio.to_thread(kvm.works)))
        await asyncio.to_thread(launcher.sweep)
        await asyncio.to_thread(leftovers.sweep, conversion_store.folders)
        await transfers.recover()
        keeping.append(asyncio.create_task(transfers.keep_rates(changed_rates)))
        await conversions.recover()

    async def on_shutdown() -> None:
        for task in keeping:
            task.cancel()
        await asyncio.gather(*probing, transfers.stop(), conversions.stop())

    await run_service(
        "disk agent",
        setup.listen,
        setup.tls,
        register,
        grace_seconds=30.0,
        reflection=True,
        ready_file=setup.ready_file,
        metrics_listen=setup.metrics_listen,
        on_start=on_start,
        on_shutdown=on_shutdown,
    )
    if not runtime.is_relative_to(state_dir):
        # A folder in /tmp is removed, as the next start creates it again; one in use stays.
        with contextlib.suppress(OSError):
            await asyncio.to_thread(runtime.rmdir)


def _host_cache() -> Path:
    """The folder for results of tests of the host, which every configuration shares."""
    directory = Path(os.environ.get("V2C_CACHE_DIR") or "~/.cache/v2c").expanduser()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def _conversion_host(
    commands: HostCommands, kvm: KvmProbe, config: Config, short_dir: Path
) -> ConversionHost:
    """What conversions need of this host. Called for each, so that a new program is found."""
    return ConversionHost(
        virt_v2v=find_virt_v2v(commands),
        libguestfs=libguestfs_environment(kvm.works(), os.environ, _APPLIANCE_CACHE),
        runtime_dir=short_dir,
        timeout_seconds=_CONVERSION_SECONDS,
    )


def _pools(commands: HostCommands, state_dir: Path) -> Pools:
    try:
        os_release = _OS_RELEASE.read_text()
    except FileNotFoundError:
        os_release = ""
    return Pools(commands, state_dir, nfs_options=default_nfs_options(os_release, os.environ))


def runtime_dir(state_dir: Path) -> Path:
    """Where workers keep their sockets: below the state folder, or in /tmp if its path is too long.

    Raises RuntimeDirUnsafe when the folder in /tmp belongs to another user.
    """
    wanted = state_dir / "run"
    if len(str(wanted)) <= _RUNTIME_PATH_LIMIT:
        return wanted
    name = hashlib.sha256(str(state_dir).encode()).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"v2c-{name}"
    short.mkdir(mode=0o700, exist_ok=True)
    if short.is_symlink() or short.stat().st_uid != os.geteuid():
        raise RuntimeDirUnsafe(message=f"{short} belongs to another user")
    return short


class RuntimeDirUnsafe(ServiceError):
    """The folder for sockets belongs to another user, who could connect to them."""

    code = Code.FAILED_PRECONDITION
    reason = "RUNTIME_DIR_UNSAFE"
    hint = "remove the folder, or give migration.control_dir a shorter path"


def main() -> int:
    """The process' entry point; returns its exit status."""
    return service_main("disk", "copies disks into images on this storage host", serve)
