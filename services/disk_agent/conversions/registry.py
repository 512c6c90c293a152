"""Conversions as resources: start, attach, watch, cancel.

All methods run on the event loop; files are written in threads. A commit is recorded on disk before
it begins, so that a restarted agent knows which images may be half-written.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from services.disk_agent.conversions.checks import ImageInspector, check_images, check_request
from services.disk_agent.conversions.conversion import Conversion, ConversionRequest, Converted
from services.disk_agent.conversions.errors import (
    ConversionBusy,
    ConversionEnded,
    ConversionExists,
    ConversionNotFound,
)
from services.disk_agent.conversions.failures import (
    CommitInterrupted,
    ConversionCancelled,
    ConversionFailure,
    ConversionInterrupted,
)
from services.disk_agent.conversions.messages import Reported
from services.disk_agent.conversions.run import ConversionRun
from services.disk_agent.conversions.store import ConversionStore
from services.disk_agent.resources.record import Fences, State
from services.disk_agent.resources.registry import Entry, Registry, to_the_end
from services.kit.failure import Failure, ServiceError

_log = structlog.stdlib.get_logger(__name__)


@dataclass
class _Entry(Entry[Conversion]):
    """A conversion with what is needed while this agent runs."""

    converting: asyncio.Task[Reported] | None = None


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
        self._slots = asyncio.Semaphore(parallel)
        self._registry: Registry[Conversion, _Entry] = Registry(
            "conversion",
            store,
            fences,
            entry=_Entry,
            not_found=ConversionNotFound,
            clock=clock,
        )
        self._stopping = False

    async def recover(self) -> None:
        """Load the conversions of earlier agents. Those that were running are FAILED, retryable.

        Call it after their processes were ended (see `leftovers.sweep`). Overlays are removed,
        except those of an interrupted commit: starting that conversion again finishes the commit.
        """
        for conversion in await self._registry.recover(_ended_with_the_agent):
            if not conversion.committing:
                await asyncio.to_thread(self._store.remove_overlays, conversion.request)

    async def stop(self) -> None:
        """End all conversions as FAILED, retryable; waits for a commit that is running."""
        self._stopping = True
        entries = [entry for entry in self._registry.entries() if entry.task is not None]
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
        async with self._registry.commands:
            await self._registry.check_epoch(map(str, request.image_paths), epoch)
            entry = self._registry.find(request.conversion_id)
            if entry is not None:
                conversion = entry.record
                if conversion.request.identity != request.identity:
                    raise ConversionExists(
                        f"conversion {conversion.id} exists with other parameters"
                    )
                if conversion.state is State.CANCELLED:
                    raise ConversionEnded(f"conversion {conversion.id} was cancelled")
                if conversion.state is not State.FAILED:
                    return conversion, True
            self._check_free(request)
            existed = entry is not None
            before = entry.record if entry is not None else self._fresh(request)
            converted = None if before.committing else await self._check_images(request)
            queued = before.changed(
                self._registry.now(),
                # A retry may come with another ISO or a longer timeout.
                request=request,
                state=State.QUEUED,
                epoch=epoch,
                failure=None,
                end_time=None,
            )
            if converted is not None:
                now = self._registry.now()
                queued = queued.changed(now, **converted.as_changes(), end_time=now)
            entry = await self._registry.put(queued)
            # Nothing is awaited from here on: a caller that gives up cannot leave it half-started.
            if converted is None:
                entry.cancelled = False
                entry.task = asyncio.create_task(self._supervise(entry))
            return entry.record, existed

    def get(self, conversion_id: str) -> Conversion:
        """A conversion now. Raises ConversionNotFound."""
        return self._registry.entry(conversion_id).record

    def list(self) -> list[Conversion]:
        """Conversions, newest first."""
        return self._registry.records()

    def watch(self, conversion_id: str, after_revision: int = 0) -> AsyncIterator[Conversion]:
        """Snapshots newer than a revision, at least one a second, until the end."""
        return self._registry.watch(conversion_id, after_revision)

    async def cancel(self, conversion_id: str, *, epoch: int = 0) -> Conversion:
        """End a conversion and wait until none of its processes run; the image stays unchanged.

        A conversion that has succeeded stays SUCCEEDED, and one whose commit is running continues
        to its end. Raises ConversionNotFound or StaleEpoch.
        """
        async with self._registry.commands:
            entry = self._registry.entry(conversion_id)
            await self._registry.check_epoch(map(str, entry.record.request.image_paths), epoch)
            task = entry.task
            if task is None:
                await self._registry.cancel_failed(entry)
            else:
                entry.cancelled = True
                _interrupt(entry)
        if task is not None:
            # Shielded: a caller that gives up waiting does not revoke the cancel.
            await asyncio.shield(task)
        return entry.record

    async def delete(self, conversion_id: str) -> None:
        """Delete an ended conversion with its log; one that runs or is half-committed stays."""
        async with self._registry.commands:
            entry = self._registry.find(conversion_id)
            if entry is None or entry.task is not None or entry.record.committing:
                return
            await to_the_end(self._store.delete, entry.record.request)
            self._registry.forget(conversion_id)

    async def converted(self, image: Path) -> Converted | None:
        """The record of the converted guest in an image; None before its conversion.

        Changes of the source must not be copied into an image with a converted guest.
        """
        for entry in self._registry.entries():
            conversion = entry.record
            if conversion.committing and image in conversion.request.converted_paths:
                return Converted(conversion.id, conversion.create_time)
        return await asyncio.to_thread(self._store.converted, image)

    def at_work_in(self, directory: Path) -> str:
        """What is at work on an image below a directory, or nothing; from any thread.

        A commit that was interrupted counts: the image is not whole before it is finished.
        """
        for entry in self._registry.entries():
            images = entry.record.request.image_paths
            at_work = entry.task is not None or entry.record.committing
            if at_work and any(image.is_relative_to(directory) for image in images):
                return f"conversion {entry.record.id}"
        return ""

    async def forget_image(self, image: Path) -> None:
        """Forget that an image, which is being deleted, was converted or half-committed."""
        for entry in self._registry.entries():
            request = entry.record.request
            if entry.record.committing and image in request.converted_paths:
                await self._registry.change(entry, committing=False)
                await self._registry.save(entry)
                await to_the_end(self._store.remove_overlays, request)
        await to_the_end(self._store.forget_image, image)

    # -- supervision

    async def _supervise(self, entry: _Entry) -> None:
        """Run one attempt to its end. Never raises: a failure becomes the conversion's state."""
        log = _log.bind(conversion_id=entry.record.id)
        changes: dict[str, Any]
        try:
            changes = await self._attempt(entry)
        except ServiceError as error:
            changes = {"state": State.FAILED, "failure": error.failure}
        except asyncio.CancelledError:
            changes = {"state": State.FAILED, "failure": _interruption(entry)}
        except Exception as error:
            log.error("conversion defect", action="conversion.defect", exc_info=error)
            defect = ConversionFailure.described(
                "the conversion ended because of a defect; see the agent's log"
            )
            changes = {"state": State.FAILED, "failure": defect}
        entry.converting = None
        ended = await self._registry.finish(entry, tidy=self._remove_overlays, **changes)
        log.info(
            "conversion ended",
            action="conversion.ended",
            state=ended.state.value,
            reason=ended.failure.reason if ended.failure is not None else None,
        )

    async def _attempt(self, entry: _Entry) -> dict[str, Any]:
        """Convert and commit, or finish the commit of an earlier attempt."""
        request = entry.record.request
        if not entry.record.committing:
            entry.converting = asyncio.create_task(self._convert(entry))
            if entry.cancelled or self._stopping:
                entry.converting.cancel()
            reported = await entry.converting
            entry.converting = None
            # On disk before the commit: from here on the overlays are needed to finish the images.
            await self._registry.change(
                entry,
                step="Committing",
                committing=True,
                warnings=reported.warnings,
                guest_os=reported.guest_os,
                requires_uefi=reported.requires_uefi,
            )
            await self._registry.save(entry)
        else:
            await self._registry.change(entry, state=State.RUNNING, step="Committing")
        await self._run.commit(request)
        conversion = entry.record
        converted = Converted(
            conversion_id=conversion.id,
            time=self._registry.now(),
            guest_os=conversion.guest_os,
            requires_uefi=conversion.requires_uefi,
            warnings=conversion.warnings,
        )
        for image in request.converted_paths:
            await asyncio.to_thread(self._store.mark, image, converted)
        return {"state": State.SUCCEEDED, "committing": False, "step": ""}

    async def _convert(self, entry: _Entry) -> Reported:
        async with self._slots:
            await self._registry.change(entry, state=State.RUNNING)
            # If this fails, the file keeps QUEUED, which a restarted agent treats the same.
            await self._registry.try_to_save(entry.record)
            changes: asyncio.Queue[Reported | None] = asyncio.Queue()
            following = asyncio.create_task(self._follow(entry, changes))
            try:
                return await self._run.convert(entry.record.request, changes.put_nowait)
            finally:
                changes.put_nowait(None)
                await asyncio.shield(following)

    async def _follow(self, entry: _Entry, changes: asyncio.Queue[Reported | None]) -> None:
        while (reported := await changes.get()) is not None:
            await self._registry.change(
                entry,
                step=reported.step,
                warnings=reported.warnings,
                guest_os=reported.guest_os,
                requires_uefi=reported.requires_uefi,
            )

    def _remove_overlays(self, conversion: Conversion) -> None:
        if not conversion.committing:
            self._store.remove_overlays(conversion.request)

    # -- checks

    def _fresh(self, request: ConversionRequest) -> Conversion:
        return Conversion(
            request=request,
            state=State.QUEUED,
            revision=0,
            create_time=self._registry.now(),
            log_path=self._store.folder(request.conversion_id) / "virt-v2v.log",
        )

    async def _check_images(self, request: ConversionRequest) -> Converted | None:
        """Check all images; returns the record of a guest that was converted before."""
        await check_images(self._images, request)
        return await asyncio.to_thread(self._store.converted, request.image_paths[0])

    def _check_free(self, request: ConversionRequest) -> None:
        wanted = set(request.image_paths)
        for other in self._registry.entries():
            if other.record.id == request.conversion_id:
                continue
            at_work = other.task is not None or other.record.committing
            if at_work and wanted & set(other.record.request.image_paths):
                raise ConversionBusy(
                    f"conversion {other.record.id} uses the same images",
                    metadata={"conversion_id": other.record.id},
                )


def _ended_with_the_agent(conversion: Conversion) -> Failure:
    if conversion.committing:
        return CommitInterrupted.described(
            "the disk agent ended while writing the converted guest into the image"
        )
    return ConversionInterrupted.described("the disk agent ended during this conversion")


def _interrupt(entry: _Entry) -> None:
    if entry.converting is not None:
        entry.converting.cancel()


def _interruption(entry: _Entry) -> Failure:
    if entry.cancelled:
        return ConversionCancelled.described(
            "the conversion was cancelled; the image is as it was before"
        )
    return ConversionInterrupted.described("the disk agent was stopped during this conversion")
