"""Conversions as resources: start, attach, watch, cancel.

All methods run on the event loop; files are written in threads. A conversion's state is on disk
before the step it announces, so that a restarted agent knows which images may be half-written.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from services.disk_agent.conversions.checks import (
    Fences,
    ImageInspector,
    check_epoch,
    check_images,
    check_request,
)
from services.disk_agent.conversions.conversion import (
    Conversion,
    ConversionRequest,
    ConversionState,
    ConversionStore,
    Converted,
)
from services.disk_agent.conversions.failures import (
    CommitInterrupted,
    ConversionCancelled,
    ConversionFailure,
    ConversionInterrupted,
)
from services.disk_agent.conversions.messages import Told
from services.disk_agent.conversions.run import ConversionRun
from services.disk_agent.errors import (
    ConversionBusy,
    ConversionEnded,
    ConversionExists,
    ConversionNotFound,
)
from services.kit.failure import Failure, ServiceError

# A watcher hears at least this often, so that it can tell silence from a broken connection.
_WATCH_SECONDS = 1.0

_log = structlog.stdlib.get_logger(__name__)


@dataclass
class _Entry:
    """A conversion with what is needed while this agent runs."""

    conversion: Conversion
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    task: asyncio.Task[None] | None = None
    converting: asyncio.Task[Told] | None = None
    cancelled: bool = False


class Conversions:
    """All conversions of this agent."""

    def __init__(
        self,
        store: ConversionStore,
        run: ConversionRun,
        images: ImageInspector,
        fences: Fences,
        *,
        parallel: int = 2,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``parallel`` conversions run at once; each takes a processor and 2.5 GB of memory."""
        self._store = store
        self._run = run
        self._images = images
        self._fences = fences
        self._clock = clock
        self._places = asyncio.Semaphore(parallel)
        self._entries: dict[str, _Entry] = {}
        # One command at a time: they are short, and their checks must see each other's effects.
        self._commands = asyncio.Lock()
        self._stopping = False

    async def recover(self) -> None:
        """Find the conversions of earlier agents. Those that were at work are FAILED, retryable.

        Call it after their processes were ended (see `leftovers.sweep`). Overlays go, but for those
        of a commit that was under way: starting that conversion again finishes it.
        """
        for path, conversion in await asyncio.to_thread(lambda: list(self._store.load())):
            if conversion is None:
                _log.error(
                    "a conversion's file is damaged", action="conversion.damaged", file=str(path)
                )
                continue
            if not conversion.state.ended:
                failure = (
                    CommitInterrupted.described(
                        "the disk agent ended while it wrote the converted guest"
                    )
                    if conversion.committing
                    else ConversionInterrupted.described(
                        "the disk agent ended during this conversion"
                    )
                )
                conversion = conversion.changed(
                    self._clock(),
                    state=ConversionState.FAILED,
                    failure=failure,
                    end_time=self._clock(),
                )
                await asyncio.to_thread(self._store.save, conversion)
            if not conversion.committing:
                await asyncio.to_thread(self._store.remove_overlays, conversion.request)
            self._entries[conversion.id] = _Entry(conversion)

    async def stop(self) -> None:
        """End all conversions, retryable; a commit under way is waited for."""
        self._stopping = True
        entries = [entry for entry in self._entries.values() if entry.task is not None]
        for entry in entries:
            _interrupt(entry)
        await asyncio.gather(*(entry.task for entry in entries if entry.task is not None))

    # -- commands

    async def start(self, request: ConversionRequest, *, epoch: int = 0) -> tuple[Conversion, bool]:
        """Start, attach to, or start again; returns the conversion and whether it existed.

        Images whose guest has been converted before are not touched: the conversion is SUCCEEDED
        at once. Raises ConversionInvalid, ConversionExists, ConversionEnded, ConversionBusy,
        StaleEpoch, and what `Images.inspect` and `check_unlocked` raise.
        """
        check_request(request)
        async with self._commands:
            await check_epoch(self._fences, request, epoch)
            entry = self._entries.get(request.conversion_id)
            if entry is not None:
                conversion = entry.conversion
                if conversion.request.identity != request.identity:
                    raise ConversionExists(
                        message=f"conversion {conversion.id} exists with other parameters"
                    )
                if conversion.state is ConversionState.CANCELLED:
                    raise ConversionEnded(message=f"conversion {conversion.id} was cancelled")
                if conversion.state is not ConversionState.FAILED:
                    return conversion, True
            self._check_free(request)
            resuming = entry is not None and entry.conversion.committing
            converted = None
            if not resuming:
                await check_images(self._images, request)
                boot_disk = request.image_paths[0]
                converted = await asyncio.to_thread(self._store.converted, boot_disk)
            existed = entry is not None
            entry = entry or _Entry(self._fresh(request))
            await self._change(
                entry,
                # A retry may come with another ISO or a longer timeout.
                request=request,
                state=ConversionState.QUEUED,
                epoch=epoch,
                failure=None,
                end_time=None,
            )
            if converted is not None:
                await self._change(entry, **converted.as_changes(), end_time=self._clock())
            await asyncio.to_thread(self._store.save, entry.conversion)
            self._entries[request.conversion_id] = entry
            if converted is None:
                entry.cancelled = False
                entry.task = asyncio.create_task(self._supervise(entry))
            return entry.conversion, existed

    def get(self, conversion_id: str) -> Conversion:
        """A conversion now. Raises ConversionNotFound."""
        return self._entry(conversion_id).conversion

    def list(self) -> list[Conversion]:
        """Conversions, newest first."""
        found = [entry.conversion for entry in self._entries.values()]
        return sorted(found, key=lambda conversion: conversion.create_time, reverse=True)

    async def cancel(self, conversion_id: str, *, epoch: int = 0) -> Conversion:
        """End a conversion and wait until nothing of it runs; the image is as it was before.

        One that has ended stays so, and one that is writing the converted guest ends SUCCEEDED.
        Raises ConversionNotFound or StaleEpoch.
        """
        async with self._commands:
            entry = self._entry(conversion_id)
            await check_epoch(self._fences, entry.conversion.request, epoch)
            task = entry.task
            if task is not None:
                entry.cancelled = True
                _interrupt(entry)
            elif entry.conversion.state is ConversionState.FAILED and not (
                entry.conversion.committing
            ):
                await self._change(entry, state=ConversionState.CANCELLED)
                await asyncio.to_thread(self._store.save, entry.conversion)
        if task is not None:
            # Shielded: a caller who gives up waiting does not take back the cancel.
            await asyncio.shield(task)
        return entry.conversion

    async def delete(self, conversion_id: str) -> None:
        """Forget an ended conversion, its log too; one at work or half-committed stays."""
        async with self._commands:
            entry = self._entries.get(conversion_id)
            if entry is None or entry.task is not None or entry.conversion.committing:
                return
            await asyncio.to_thread(self._store.delete, entry.conversion.request)
            del self._entries[conversion_id]

    async def watch(self, conversion_id: str, after_revision: int = 0) -> AsyncIterator[Conversion]:
        """Snapshots newer than a revision, at least one a second, until the end."""
        entry = self._entry(conversion_id)
        while True:
            conversion = entry.conversion
            if conversion.revision > after_revision or conversion.state.ended:
                yield conversion
                after_revision = conversion.revision
                if conversion.state.ended:
                    return
            if not await self._wait_for_change(entry, after_revision):
                # Nothing new is worth telling too.
                after_revision = entry.conversion.revision - 1

    async def converted(self, image: Path) -> Converted | None:
        """What is known of the converted guest in an image; None before its conversion.

        Changes of the source must not be copied into such an image any more.
        """
        for entry in self._entries.values():
            request = entry.conversion.request
            if entry.conversion.committing and image in request.converted_paths:
                return Converted(entry.conversion.id, entry.conversion.create_time)
        return await asyncio.to_thread(self._store.converted, image)

    async def forget_image(self, image: Path) -> None:
        """Forget that an image, which is being deleted, was converted or half-committed."""
        for entry in self._entries.values():
            conversion = entry.conversion
            if conversion.committing and image in conversion.request.converted_paths:
                await self._change(entry, committing=False)
                await asyncio.to_thread(self._store.save, entry.conversion)
                await asyncio.to_thread(self._store.remove_overlays, conversion.request)
        await asyncio.to_thread(self._store.forget_image, image)

    # -- supervision

    async def _supervise(self, entry: _Entry) -> None:
        """Run one attempt to its end. Never raises: whatever happens is the conversion's state."""
        conversion_id = entry.conversion.id
        log = _log.bind(conversion_id=conversion_id)
        changes: dict[str, Any]
        try:
            changes = await self._attempt(entry)
        except ServiceError as error:
            changes = {"state": ConversionState.FAILED, "failure": error.failure}
        except asyncio.CancelledError:
            changes = {"state": ConversionState.FAILED, "failure": _interruption(entry)}
        except Exception as error:
            log.error("conversion defect", action="conversion.defect", exc_info=error)
            defect = ConversionFailure.described(
                "the conversion ended on a defect; see the agent's log"
            )
            changes = {"state": ConversionState.FAILED, "failure": defect}
        failed = changes["state"] is ConversionState.FAILED
        if entry.cancelled and failed and not entry.conversion.committing:
            changes["state"] = ConversionState.CANCELLED
        entry.converting = None
        ended = entry.conversion.changed(self._clock(), end_time=self._clock(), **changes)
        try:
            await asyncio.to_thread(self._store.save, ended)
            if not ended.committing:
                await asyncio.to_thread(self._store.remove_overlays, ended.request)
        except OSError as error:
            log.error("the end was not saved", action="conversion.unsaved", exc_info=error)
        entry.task = None
        async with entry.changed:
            entry.conversion = ended
            entry.changed.notify_all()
        reason = ended.failure.reason if ended.failure is not None else None
        log.info(
            "conversion ended", action="conversion.ended", state=ended.state.value, reason=reason
        )

    async def _attempt(self, entry: _Entry) -> dict[str, Any]:
        """Convert and commit, or finish the commit of an earlier attempt."""
        request = entry.conversion.request
        if not entry.conversion.committing:
            entry.converting = asyncio.create_task(self._convert(entry))
            if entry.cancelled or self._stopping:
                entry.converting.cancel()
            told = await entry.converting
            entry.converting = None
            # On disk first: from here on the overlay is needed to make the image whole.
            await self._change(
                entry,
                step="Committing",
                committing=True,
                warnings=told.warnings,
                guest_os=told.guest_os,
                requires_uefi=told.requires_uefi,
            )
            await asyncio.to_thread(self._store.save, entry.conversion)
        else:
            await self._change(entry, state=ConversionState.RUNNING, step="Committing")
        await self._run.commit(request)
        conversion = entry.conversion
        converted = Converted(
            conversion_id=conversion.id,
            time=self._clock(),
            guest_os=conversion.guest_os,
            requires_uefi=conversion.requires_uefi,
            warnings=conversion.warnings,
        )
        for image in request.converted_paths:
            await asyncio.to_thread(self._store.mark, image, converted)
        return {"state": ConversionState.SUCCEEDED, "committing": False, "step": ""}

    async def _convert(self, entry: _Entry) -> Told:
        async with self._places:
            await self._change(entry, state=ConversionState.RUNNING)
            await asyncio.to_thread(self._store.save, entry.conversion)
            changes: asyncio.Queue[Told | None] = asyncio.Queue()
            telling = asyncio.create_task(self._tell(entry, changes))
            try:
                return await self._run.convert(entry.conversion.request, changes.put_nowait)
            finally:
                changes.put_nowait(None)
                await asyncio.shield(telling)

    async def _tell(self, entry: _Entry, changes: asyncio.Queue[Told | None]) -> None:
        while (told := await changes.get()) is not None:
            await self._change(
                entry,
                step=told.step,
                warnings=told.warnings,
                guest_os=told.guest_os,
                requires_uefi=told.requires_uefi,
            )

    async def _wait_for_change(self, entry: _Entry, seen: int) -> bool:
        async with entry.changed:
            try:
                async with asyncio.timeout(_WATCH_SECONDS):
                    await entry.changed.wait_for(lambda: entry.conversion.revision > seen)
            except TimeoutError:
                return False
        return True

    async def _change(self, entry: _Entry, **changes: Any) -> None:
        async with entry.changed:
            entry.conversion = entry.conversion.changed(self._clock(), **changes)
            entry.changed.notify_all()

    # -- checks

    def _entry(self, conversion_id: str) -> _Entry:
        entry = self._entries.get(conversion_id)
        if entry is None:
            raise ConversionNotFound(message=f"there is no conversion {conversion_id!r}")
        return entry

    def _fresh(self, request: ConversionRequest) -> Conversion:
        return Conversion(
            request=request,
            state=ConversionState.QUEUED,
            revision=0,
            create_time=self._clock(),
            log_path=self._store.folder(request.conversion_id) / "virt-v2v.log",
        )

    def _check_free(self, request: ConversionRequest) -> None:
        wanted = set(request.image_paths)
        for other in self._entries.values():
            if other.conversion.id == request.conversion_id:
                continue
            at_work = other.task is not None or other.conversion.committing
            if at_work and wanted & set(other.conversion.request.image_paths):
                raise ConversionBusy(
                    message=f"conversion {other.conversion.id} has to do with the same images",
                    metadata={"conversion_id": other.conversion.id},
                )


def _interrupt(entry: _Entry) -> None:
    if entry.converting is not None:
        entry.converting.cancel()


def _interruption(entry: _Entry) -> Failure:
    if entry.cancelled:
        return ConversionCancelled.described(
            "the conversion was cancelled; the image is as it was before"
        )
    return ConversionInterrupted.described("the disk agent was stopped during this conversion")
