"""The registry of one kind of resource: its entries, their files, and their watchers.

All methods run on the event loop; files are written in threads. A write that was begun is finished
even if its caller gives up: otherwise the next command could write the same file at the same time.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import structlog

from services.disk_agent.resources.errors import StaleEpoch
from services.disk_agent.resources.record import Fences, RecordStore, RecordT, State
from services.kit.failure import Failure, ServiceError

# A watcher gets a snapshot at least this often, so that it can distinguish a resource without
# changes from a broken connection.
_WATCH_SECONDS = 1.0

_log = structlog.stdlib.get_logger(__name__)

_T = TypeVar("_T")


@dataclass
class Entry(Generic[RecordT]):
    """A resource's record, with the state that exists only while this agent runs."""

    record: RecordT
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    task: asyncio.Task[None] | None = None
    cancelled: bool = False


_EntryT = TypeVar("_EntryT", bound=Entry[Any])


class Registry(Generic[RecordT, _EntryT]):
    """All resources of one kind."""

    def __init__(
        self,
        kind: str,
        store: RecordStore[RecordT],
        fences: Fences,
        *,
        entry: Callable[[RecordT], _EntryT],
        not_found: type[ServiceError],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`kind` is their name in messages and logs; `not_found` is raised for an unknown id."""
        self._kind = kind
        self._store = store
        self._fences = fences
        self._new_entry = entry
        self._not_found = not_found
        self.now = clock
        self._entries: dict[str, _EntryT] = {}
        # One command at a time: they are short, and their checks must see each other's effects.
        self.commands = asyncio.Lock()

    async def recover(self, interruption: Callable[[RecordT], Failure]) -> list[RecordT]:
        """Load the resources of earlier agents from their files, and return them.

        Those that had not ended become FAILED, with the failure that `interruption` returns.
        """
        for path, record in await asyncio.to_thread(lambda: list(self._store.load())):
            if record is None:
                _log.error(
                    f"the file of a {self._kind} is damaged",
                    action=f"{self._kind}.damaged",
                    file=str(path),
                )
                continue
            if not record.state.ended:
                record = record.changed(
                    self.now(),
                    state=State.FAILED,
                    failure=interruption(record),
                    end_time=self.now(),
                )
                await asyncio.to_thread(self._store.save, record)
            self._entries[record.id] = self._new_entry(record)
        return [entry.record for entry in self.entries()]

    # -- reading

    def entries(self) -> list[_EntryT]:
        """All entries now."""
        return list(self._entries.values())

    def find(self, resource_id: str) -> _EntryT | None:
        """An entry, None when there is none."""
        return self._entries.get(resource_id)

    def entry(self, resource_id: str) -> _EntryT:
        """An entry. Raises `not_found`."""
        entry = self._entries.get(resource_id)
        if entry is None:
            raise self._not_found(f"there is no {self._kind} {resource_id!r}")
        return entry

    def records(self) -> list[RecordT]:
        """All resources, newest first."""
        found = [entry.record for entry in self.entries()]
        return sorted(found, key=lambda record: record.create_time, reverse=True)

    async def watch(self, resource_id: str, after_revision: int = 0) -> AsyncIterator[RecordT]:
        """Snapshots newer than a revision, at least one a second, until the resource has ended."""
        entry = self.entry(resource_id)
        while True:
            record: RecordT = entry.record
            if record.revision > after_revision or record.state.ended:
                yield record
                after_revision = record.revision
                if record.state.ended:
                    return
            async with entry.changed:
                try:
                    async with asyncio.timeout(_WATCH_SECONDS):
                        await entry.changed.wait_for(
                            functools.partial(_is_newer, entry, after_revision)
                        )
                except TimeoutError:
                    # Nothing changed: make a new revision, so that the watcher gets a snapshot.
                    if not entry.record.state.ended:
                        entry.record = entry.record.changed(self.now())
                        entry.changed.notify_all()

    # -- changing

    async def check_epoch(self, image_paths: Iterable[str], epoch: int) -> None:
        """Raise StaleEpoch for an epoch below an image's fence; a higher one becomes the fence."""
        higher = []
        for path in image_paths:
            seen = await asyncio.to_thread(self._fences.fence, path)
            if epoch < seen:
                raise StaleEpoch(
                    f"stale epoch {epoch}, {path} is claimed by epoch {seen}",
                    metadata={"epoch": str(epoch), "seen_epoch": str(seen)},
                )
            if epoch > seen:
                higher.append(path)
        for path in higher:
            await to_the_end(self._fences.raise_fence, path, epoch)

    async def put(self, record: RecordT) -> _EntryT:
        """Save a record to its file, then put it into the registry. Raises OSError.

        If the caller gives up meanwhile, the registry does not change; the file may be written all
        the same, and a restarted agent then treats the resource as interrupted.
        """
        await to_the_end(self._store.save, record)
        entry = self._entries.get(record.id)
        if entry is None:
            entry = self._entries[record.id] = self._new_entry(record)
        entry.record = record
        return entry

    async def change(self, entry: _EntryT, **changes: Any) -> None:
        """Change the record in memory, and wake its watchers; the file is not written."""
        async with entry.changed:
            entry.record = entry.record.changed(self.now(), **changes)
            entry.changed.notify_all()

    async def save(self, entry: _EntryT) -> None:
        """Write an entry's record, completely even if the caller gives up. Raises OSError."""
        await to_the_end(self._store.save, entry.record)

    async def try_to_save(self, record: RecordT) -> bool:
        """Save a record, and log an error if the state folder cannot be written to: running work
        must not end because of that. Returns whether the record was saved.
        """
        try:
            await to_the_end(self._store.save, record)
        except OSError as error:
            _log.error(
                f"a {self._kind} was not saved",
                action=f"{self._kind}.unsaved",
                exc_info=error,
                **{f"{self._kind}_id": record.id},
            )
            return False
        return True

    async def cancel_failed(self, entry: _EntryT) -> None:
        """Make a resource that failed CANCELLED, so that it is not started again.

        It is so from then on, also where its file cannot be written. Raises OSError then: a second
        call finds nothing left to do.
        """
        if entry.record.state is State.FAILED and entry.record.cancellable:
            await self.change(entry, state=State.CANCELLED)
            await self.save(entry)

    async def finish(
        self,
        entry: _EntryT,
        *,
        tidy: Callable[[RecordT], None] | None = None,
        **changes: Any,
    ) -> RecordT:
        """Record the end of an attempt, and wake the watchers; returns the record.

        A resource that failed after it was cancelled is CANCELLED. `tidy` is called in a thread
        once the end is on disk.
        """
        ended: RecordT = entry.record.changed(self.now(), end_time=self.now(), **changes)
        if _is_cancelled(entry, ended):
            ended = ended.changed(self.now(), state=State.CANCELLED)
        saved = await self.try_to_save(ended)
        if saved and tidy is not None:
            await self._tidied(tidy, ended)
        if _is_cancelled(entry, ended):
            # It was cancelled while the end was being saved.
            ended = ended.changed(self.now(), state=State.CANCELLED)
            await self.try_to_save(ended)
        entry.task = None
        async with entry.changed:
            # A new revision again: watchers may have got a newer one than `ended` meanwhile.
            entry.record = ended.changed(self.now())
            entry.changed.notify_all()
        return ended

    def forget(self, resource_id: str) -> None:
        """Remove the entry of a resource whose files are gone."""
        self._entries.pop(resource_id, None)

    async def _tidied(self, tidy: Callable[[RecordT], None], record: RecordT) -> None:
        try:
            await to_the_end(tidy, record)
        except OSError as error:
            _log.error(
                f"files of a {self._kind} that ended could not be removed",
                action=f"{self._kind}.untidy",
                exc_info=error,
                **{f"{self._kind}_id": record.id},
            )


async def to_the_end(function: Callable[..., _T], *arguments: Any) -> _T:
    """Run a blocking function in a thread; a caller that is cancelled still waits for its end."""
    running = asyncio.create_task(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        raise


def _is_newer(entry: Entry[RecordT], revision: int) -> bool:
    return entry.record.revision > revision


def _is_cancelled(entry: Entry[RecordT], ended: RecordT) -> bool:
    return entry.cancelled and ended.state is State.FAILED and ended.cancellable
