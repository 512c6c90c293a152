"""One conversion from overlay to commit.

virt-v2v works on overlays, so that the images are only read until it has succeeded. Then the
overlays are committed. A commit cannot be undone, but it can be repeated, so all overlays stay
until the last commit has ended.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from services.disk_agent.conversions.conversion import ConversionRequest
from services.disk_agent.conversions.diagnosis import classify, el9_warning
from services.disk_agent.conversions.failures import (
    CommitInterrupted,
    ConversionTimeout,
    VirtioDriversMissing,
)
from services.disk_agent.conversions.messages import (
    MessageFile,
    Reported,
    inspected_guest,
    log_tail,
    with_line,
)
from services.disk_agent.conversions.store import ConversionStore
from services.disk_agent.conversions.virt_v2v import VirtV2v, conversion_environment, domain_xml
from services.disk_agent.host.commands import Commands, tool_failed
from services.disk_agent.host.errors import ToolTimeout
from services.disk_agent.storage.errors import PoolFull
from services.kit.processes.service import exits_within

_CREATE_SECONDS = 60.0
# Enough to write some hundred MB of a Windows guest's drivers to slow NFS.
_COMMIT_SECONDS = 1800.0
_READ_SECONDS = 0.2
# The reaper gives virt-v2v 2 s to clean up, then kills.
_END_SECONDS = 15.0
_BLOCK_BYTES = 512


@dataclass(frozen=True)
class ConversionHost:
    """What conversions need of this host: the program, libguestfs' variables, and a directory.

    ``runtime_dir`` has a short path, because unix sockets go below it (107 bytes in all).
    """

    virt_v2v: VirtV2v
    libguestfs: Mapping[str, str]
    runtime_dir: Path
    timeout_seconds: float


class ConversionRun(Protocol):
    """Converts images and commits the result; the registry calls it for each conversion."""

    async def convert(
        self, request: ConversionRequest, on_change: Callable[[Reported], None]
    ) -> Reported:
        """Convert overlays of the images; ``on_change`` is called at each change.

        Raises ServiceError; cancelling the task ends virt-v2v. In both cases no process of the
        conversion runs afterwards, and its overlays are removed.
        """
        ...

    async def commit(self, request: ConversionRequest) -> None:
        """Write the converted overlays into the images.

        The overlays stay, so that it can be repeated. Raises ConversionFailure.
        """
        ...


class OverlayRun:
    """Conversions with virt-v2v-in-place on overlays, run below the reaper."""

    def __init__(
        self, store: ConversionStore, commands: Commands, host: Callable[[], ConversionHost]
    ) -> None:
        """``host`` is called in a thread for each conversion; it may block or raise."""
        self._store = store
        self._commands = commands
        self._host = host

    async def convert(
        self, request: ConversionRequest, on_change: Callable[[Reported], None]
    ) -> Reported:
        """Make the overlays, run virt-v2v on them, and check its result."""
        try:
            host = await asyncio.to_thread(self._host)
            await asyncio.to_thread(self._make_overlays, request)
            status, reported = await self._run(request, host, on_change)
            return await asyncio.to_thread(self._judge, request, host, status, reported)
        except BaseException:
            # Shielded: a second cancel must not prevent the removal.
            await asyncio.shield(asyncio.to_thread(self._store.remove_overlays, request))
            raise

    async def commit(self, request: ConversionRequest) -> None:
        """Commit all overlays in their order, durably."""
        await asyncio.to_thread(self._commit, request)

    def _make_overlays(self, request: ConversionRequest) -> None:
        folder = self._store.folder(request.conversion_id)
        (folder / "tmp").mkdir(parents=True, exist_ok=True, mode=0o700)
        overlays = self._store.overlays(request)
        for image, overlay in zip(request.converted_paths, overlays, strict=True):
            overlay.unlink(missing_ok=True)
            command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(image)]
            done = self._commands.run([*command, str(overlay)], timeout_seconds=_CREATE_SECONDS)
            if done.status != 0:
                raise tool_failed("qemu-img", done)
        (folder / "domain.xml").write_text(domain_xml(request.conversion_id, overlays))

    async def _run(
        self,
        request: ConversionRequest,
        host: ConversionHost,
        on_change: Callable[[Reported], None],
    ) -> tuple[int, Reported]:
        """Run virt-v2v to its end; returns its exit status and what it reported."""
        folder = self._store.folder(request.conversion_id)
        messages = folder / "messages.jsonl"
        await asyncio.to_thread(messages.unlink, missing_ok=True)
        temporary = await asyncio.to_thread(_make_temporary, host.runtime_dir)
        environment = conversion_environment(
            os.environ,
            host.libguestfs,
            temporary=temporary,
            large_temporary=folder / "tmp",
            virtio_iso=request.virtio_iso,
        )
        overlays = self._store.overlays(request)
        command = host.virt_v2v.command(overlays, messages, folder / "domain.xml")
        timeout_seconds = request.timeout_seconds or host.timeout_seconds
        reader = _MessageReader(MessageFile(messages), on_change)
        try:
            reaper = await _start_reaper(command, environment, folder / "virt-v2v.log")
            try:
                async with asyncio.timeout(timeout_seconds):
                    await reader.read_until_ended(reaper)
            finally:
                await asyncio.shield(asyncio.create_task(_end(reaper)))
        except TimeoutError as error:
            raise ConversionTimeout(
                f"virt-v2v-in-place had not ended after {timeout_seconds:.0f} seconds; its last "
                f"step was: {reader.reported.step or 'none'}"
            ) from error
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, temporary, ignore_errors=True))
        await reader.read()
        return reaper.returncode or 0, reader.reported

    def _judge(
        self, request: ConversionRequest, host: ConversionHost, status: int, reported: Reported
    ) -> Reported:
        """Return the report with the guest's name and warnings, or raise ServiceError."""
        log = self._store.folder(request.conversion_id) / "virt-v2v.log"
        version = host.virt_v2v.version
        guest_os = inspected_guest(log) or reported.guest_os
        if status != 0:
            raise classify(
                reported.errors, log_tail(log), guest_os=guest_os, version=version, status=status
            )
        if reported.drivers_missing:
            # The exit status alone would call this a success.
            raise VirtioDriversMissing(
                f"virt-v2v-in-place found no virtio drivers for {guest_os or 'this guest'}",
                metadata={"virtio_iso": str(request.virtio_iso or "")},
            )
        self._check_space(request)
        warning = el9_warning(guest_os, version)
        warnings = (*reported.warnings, warning) if warning else reported.warnings
        return replace(reported, guest_os=guest_os, warnings=warnings)

    def _check_space(self, request: ConversionRequest) -> None:
        # A commit that runs out of space leaves the image neither old nor new.
        overlays = self._store.overlays(request)
        for image, overlay in zip(request.converted_paths, overlays, strict=True):
            needed = overlay.stat().st_blocks * _BLOCK_BYTES
            status = os.statvfs(image.parent)
            free = status.f_bavail * status.f_frsize
            if needed > free:
                raise PoolFull(
                    f"the converted guest needs up to {needed} bytes more on {image.parent}; "
                    f"{free} are free",
                    metadata={"needed_bytes": str(needed), "free_bytes": str(free)},
                    hint="make space on the storage pool, then convert again",
                )

    def _commit(self, request: ConversionRequest) -> None:
        overlays = self._store.overlays(request)
        for image, overlay in zip(request.converted_paths, overlays, strict=True):
            # -d leaves the overlay unchanged, so that an interrupted commit can be repeated.
            command = ["qemu-img", "commit", "-q", "-d", "-f", "qcow2", str(overlay)]
            try:
                done = self._commands.run(command, timeout_seconds=_COMMIT_SECONDS)
            except ToolTimeout as error:
                raise CommitInterrupted(f"the commit into {image} did not end in time") from error
            if done.status != 0:
                detail = done.stderr.strip()[-300:]
                raise CommitInterrupted(
                    f"the commit into {image} failed: {detail}", metadata={"detail": detail}
                )
            with image.open("rb") as file:
                os.fsync(file.fileno())


class _MessageReader:
    """Reads the messages of virt-v2v, and calls `on_change` when the report changes."""

    def __init__(self, file: MessageFile, on_change: Callable[[Reported], None]) -> None:
        self._file = file
        self._on_change = on_change
        self.reported = Reported()

    async def read_until_ended(self, process: asyncio.subprocess.Process) -> None:
        ended = asyncio.create_task(process.wait())
        try:
            while not ended.done():
                await asyncio.wait({ended}, timeout=_READ_SECONDS)
                await self.read()
        finally:
            ended.cancel()

    async def read(self) -> None:
        found = self.reported
        for line in await asyncio.to_thread(self._file.read):
            found = with_line(found, line)
        if found != self.reported:
            self.reported = found
            self._on_change(found)


async def _start_reaper(
    command: list[str], environment: Mapping[str, str], log_path: Path
) -> asyncio.subprocess.Process:
    # Created here and not by the child, so that the log exists before the child starts.
    log = await asyncio.to_thread(log_path.open, "wb")
    try:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.disk_agent.conversions.reaper", "--", *command),
            stdin=asyncio.subprocess.PIPE,
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    finally:
        log.close()


async def _end(reaper: asyncio.subprocess.Process) -> None:
    """Have the reaper end all processes below it, and wait until it has exited."""
    if reaper.stdin is not None:
        reaper.stdin.close()
    if not await exits_within(reaper, _END_SECONDS):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(reaper.pid, signal.SIGKILL)
        await reaper.wait()


def _make_temporary(runtime_dir: Path) -> Path:
    runtime_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Path(tempfile.mkdtemp(prefix="c-", dir=runtime_dir))
