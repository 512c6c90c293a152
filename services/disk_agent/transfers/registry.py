"""Transfers as resources: start, attach, watch, cancel; each with a worker of its own.

All methods run on the event loop; files are written in threads. A transfer's state on disk is
written when the state changes, its progress lives in memory.
"""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog

from services.disk_agent.engine.progress import Progress
from services.disk_agent.failures import AgentRestarted, WorkerDied
from services.disk_agent.transfers.checks import check, identity
from services.disk_agent.transfers.errors import (
    StaleEpoch,
    TargetBusy,
    TargetConverted,
    TransferEnded,
    TransferExists,
    TransferNotFound,
    TransferRunning,
)
from services.disk_agent.transfers.rate_keeping import Entry, RateKeeper
from services.disk_agent.transfers.rates import RateShares
from services.disk_agent.transfers.saving import save_to_the_end, try_to_save
from services.disk_agent.transfers.supervisor import Event, RunningWorker, WorkerLauncher
from services.disk_agent.transfers.transfer import State, Transfer, TransferStore, changes_at_end
from services.disk_agent.worker.order import TransferOrder
from services.disk_agent.worker.range_sets import RangeSets
from services.kit.failure import ServiceError

# The calendar is looked at this often.
_RATE_SECONDS = 1.0
# A watcher hears at least this often, so that it can tell silence from a broken connection.
_WATCH_SECONDS = 1.0

_log = structlog.stdlib.get_logger(__name__)


async def _never_converted(_image: Path) -> bool:
    return False


class Transfers:
    """All transfers of this agent."""

    def __init__(
        self,
        store: TransferStore,
        launcher: WorkerLauncher,
        ranges: RangeSets,
        *,
        is_converted: Callable[[Path], Awaitable[bool]] = _never_converted,
        rates: RateShares | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`is_converted` tells images that hold a converted guest; nothing writes into those.

        `rates` divides what this agent may use; without, each transfer has its own limit only.
        """
        self._is_converted = is_converted
        self._store = store
        self._launcher = launcher
        self._ranges = ranges
        self._rates = RateKeeper(rates or RateShares(), clock)
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        # One command at a time: they are short, and their checks must see each other's effects.
        self._commands = asyncio.Lock()
        self._stopping = False

    async def recover(self) -> None:
        """Find the transfers of earlier agents. Those that were at work are FAILED, retryable."""
        for path, transfer in await asyncio.to_thread(lambda: list(self._store.load())):
            if transfer is None:
                _log.error(
                    "a transfer's file is damaged", action="transfer.damaged", file=str(path)
                )
                continue
            if not transfer.state.ended:
                failure = AgentRestarted.described(
                    "the disk agent was restarted while this transfer was running"
                )
                transfer = transfer.changed(
                    self._clock(), state=State.FAILED, failure=failure, end_time=self._clock()
                )
                await asyncio.to_thread(self._store.save, transfer)
            self._entries[transfer.id] = Entry(transfer)

    async def stop(self) -> None:
        """Have all workers checkpoint and end; their transfers are FAILED and retryable."""
        self._stopping = True
        entries = [entry for entry in self._entries.values() if entry.task is not None]
        workers = [entry.worker for entry in entries if entry.worker is not None]
        await asyncio.gather(*(worker.stop() for worker in workers))
        await asyncio.gather(*(entry.task for entry in entries if entry.task is not None))

    # -- commands

    async def start(
        self, order: TransferOrder, *, password: str = "", epoch: int = 0, rate: int = 0
    ) -> tuple[Transfer, bool]:
        """Start, attach to, or resume a transfer; returns it and whether it existed.

        `rate` is a limit of its own in bytes a second; 0 leaves it to the agent's limits.
        Raises InvalidTransfer, TransferExists, TransferEnded, TargetBusy or StaleEpoch.
        """
        check(order)
        async with self._commands:
            await self._check_epoch(order.target_path, epoch)
            entry = self._entries.get(order.transfer_id)
            if entry is not None:
                transfer = entry.transfer
                if identity(transfer.order) != identity(order):
                    raise TransferExists(
                        message=f"transfer {order.transfer_id} exists with other parameters"
                    )
                if transfer.state is State.CANCELLED:
                    raise TransferEnded(message=f"transfer {transfer.id} was cancelled")
                if transfer.state is not State.FAILED:
                    return transfer, True
            await self._check_target(order)
            entry = entry or Entry(Transfer(order, State.QUEUED, 0, self._clock()))
            existed = order.transfer_id in self._entries
            queued = entry.transfer.changed(
                self._clock(),
                # A retry may come with better tuning or a corrected server.
                order=order,
                state=State.QUEUED,
                epoch=epoch,
                failure=None,
                end_time=None,
                rate_bytes_per_second=rate or self._rates.transfer_rate,
                paused=False,
            )
            await save_to_the_end(self._store, queued)
            # Nothing is awaited from here on: a caller who gives up leaves no half of it.
            entry.transfer = queued
            self._entries[order.transfer_id] = entry
            entry.cancelled, entry.default_rate = False, not rate
            entry.task = asyncio.create_task(self._supervise(entry, password))
            return entry.transfer, existed

    def get(self, transfer_id: str) -> Transfer:
        """A transfer now. Raises TransferNotFound."""
        return self._entry(transfer_id).transfer

    def list(self, target_path: str = "") -> list[Transfer]:
        """Transfers, of one image or all, newest first."""
        found = [entry.transfer for entry in self._entries.values()]
        if target_path:
            found = [each for each in found if each.order.target_path == target_path]
        return sorted(found, key=lambda transfer: transfer.create_time, reverse=True)

    async def cancel(self, transfer_id: str, *, epoch: int = 0) -> Transfer:
        """End a transfer for good and wait until nothing of it runs. One that ended stays so.

        Raises TransferNotFound or StaleEpoch.
        """
        async with self._commands:
            entry = self._entry(transfer_id)
            await self._check_epoch(entry.transfer.order.target_path, epoch)
            task, worker = entry.task, entry.worker
            if task is not None:
                entry.cancelled = True
            elif entry.transfer.state is State.FAILED:
                await self._change(entry, state=State.CANCELLED)
                await asyncio.to_thread(self._store.save, entry.transfer)
        if task is not None:
            # Shielded: a caller who gives up waiting does not take back the cancel.
            await asyncio.shield(self._end(worker, task))
        return entry.transfer

    async def _end(self, worker: RunningWorker | None, task: asyncio.Task[None]) -> None:
        if worker is not None:
            await worker.stop("cancel")
        # A worker that was still being started is told by whoever starts it.
        await task

    async def set_rate(self, transfer_id: str, bytes_per_second: int) -> Transfer:
        """Change a transfer's rate limit, 0 for none. Raises TransferNotFound."""
        entry = self._entry(transfer_id)
        entry.default_rate = False
        await self._change(entry, rate_bytes_per_second=bytes_per_second)
        self._share_rate()
        return entry.transfer

    async def keep_rates(self, changed: Callable[[], RateShares | None] = lambda: None) -> None:
        """Follow the calendar, and limits that were changed, until cancelled.

        `changed` blocks; it tells other limits once.
        """
        while True:
            await asyncio.sleep(_RATE_SECONDS)
            try:
                rates = await asyncio.to_thread(changed)
            except Exception as error:
                # The calendar goes on whatever became of the file.
                _log.error("limits cannot be read", action="limits.defect", exc_info=error)
                rates = None
            if rates is not None:
                self._rates.replace(rates, self._entries.values())
            self._share_rate()

    async def pause(self, transfer_id: str, *, paused: bool, epoch: int = 0) -> Transfer:
        """Hold a transfer, or let it go on; one that has ended stays as it is.

        Epoch 0 is a person's, who knows of none: holding does no harm, so it is not fenced. Raises
        TransferNotFound or StaleEpoch.
        """
        async with self._commands:
            entry = self._entry(transfer_id)
            if epoch:
                await self._check_epoch(entry.transfer.order.target_path, epoch)
            if entry.task is not None:
                await self._change(entry, paused=paused)
                if entry.worker is not None:
                    entry.worker.wish("pause" if paused else "resume")
                # What a held one may not use is for the others.
                self._share_rate()
            return entry.transfer

    async def delete(self, transfer_id: str) -> None:
        """Forget an ended transfer; a missing one is no error. Raises TransferRunning."""
        async with self._commands:
            entry = self._entries.get(transfer_id)
            if entry is None:
                return
            if entry.task is not None:
                raise TransferRunning(message=f"transfer {transfer_id} is running")
            await asyncio.to_thread(self._store.delete, entry.transfer)
            ranges_id = entry.transfer.order.ranges_id
            if ranges_id:
                await asyncio.to_thread(self._ranges.delete, ranges_id)
            del self._entries[transfer_id]

    def check_idle(self, target_path: str) -> None:
        """Raise TransferRunning if a transfer is at work on an image."""
        for entry in self._entries.values():
            if entry.task is not None and entry.transfer.order.target_path == target_path:
                raise TransferRunning(
                    message=f"transfer {entry.transfer.id} is at work on {target_path}"
                )

    async def forget_image(self, target_path: str) -> None:
        """Forget the chunk map and the fence of an image that was deleted.

        Raises TransferRunning while something is at work on it.
        """
        async with self._commands:
            self.check_idle(target_path)
            await asyncio.to_thread(self._store.forget_image, target_path)

    async def watch(self, transfer_id: str, after_revision: int = 0) -> AsyncIterator[Transfer]:
        """Snapshots newer than a revision, at least one a second, until the transfer has ended."""
        entry = self._entry(transfer_id)
        while True:
            transfer = entry.transfer
            if transfer.revision > after_revision or transfer.state.ended:
                yield transfer
                after_revision = transfer.revision
                if transfer.state.ended:
                    return
            async with entry.changed:
                try:
                    async with asyncio.timeout(_WATCH_SECONDS):
                        await entry.changed.wait_for(
                            functools.partial(_is_newer, entry, after_revision)
                        )
                except TimeoutError:
                    # Nothing new is worth telling too.
                    await self._touch(entry)

    # -- supervision

    async def _supervise(self, entry: Entry, password: str) -> None:
        """Run one attempt to its end. Never raises: whatever happens is the transfer's state."""
        order = entry.transfer.order
        log = _log.bind(transfer_id=order.transfer_id, disk_id=order.disk_id)
        changes: dict[str, Any]
        try:
            self._share_rate()
            entry.told_rate = entry.transfer.effective_rate
            ranges_path = str(self._ranges.path(order.ranges_id)) if order.ranges_id else ""
            entry.worker = await self._launcher.launch(
                order,
                map_path=self._store.map_path(order.target_path),
                ranges_path=ranges_path,
                rate=entry.told_rate,
                password=password,
            )
            if entry.cancelled or self._stopping:
                entry.worker.wish("cancel" if entry.cancelled else "stop")
            if entry.transfer.paused:
                entry.worker.wish("pause")
            self._share_rate()
            await self._change(entry, state=State.RUNNING, attempts=entry.transfer.attempts + 1)
            log.info("transfer running", action="transfer.running", mode=order.mode.value)
            await try_to_save(self._store, entry.transfer)
            events: asyncio.Queue[Event | None] = asyncio.Queue()
            hearing = asyncio.create_task(self._hear(entry, events))
            try:
                end = await entry.worker.run(events.put_nowait)
            finally:
                events.put_nowait(None)
                await hearing
            changes = changes_at_end(end)
        except ServiceError as error:
            changes = {"state": State.FAILED, "failure": error.failure}
        except Exception as error:
            log.error("supervision failed", action="transfer.defect", exc_info=error)
            died = WorkerDied.described("what the worker reported could not be read")
            changes = {"state": State.FAILED, "failure": died}
        entry.worker = None
        now = self._clock()
        ended = entry.transfer.changed(now, end_time=now, paused=False, effective_rate=0, **changes)
        await try_to_save(self._store, ended)
        if entry.cancelled and ended.state is State.FAILED:
            # Also where the cancel came while the end was saved.
            ended = ended.changed(self._clock(), state=State.CANCELLED)
            await try_to_save(self._store, ended)
        entry.task = None
        async with entry.changed:
            # Anew: its limit may have changed while the end was saved.
            entry.transfer = ended.changed(self._clock())
            entry.changed.notify_all()
        self._share_rate()
        failure_reason = ended.failure.reason if ended.failure is not None else None
        log.info(
            "transfer ended",
            action="transfer.ended",
            state=ended.state.value,
            reason=failure_reason,
        )

    async def _hear(self, entry: Entry, events: asyncio.Queue[Event | None]) -> None:
        while (event := await events.get()) is not None:
            if event["event"] == "progress":
                await self._change(entry, progress=Progress.from_wire(event["progress"]))
            else:
                _log.warning(
                    event["message"], action="transfer.notice", transfer_id=entry.transfer.id
                )

    async def _change(self, entry: Entry, **changes: Any) -> None:
        async with entry.changed:
            entry.transfer = entry.transfer.changed(self._clock(), **changes)
            entry.changed.notify_all()

    async def _touch(self, entry: Entry) -> None:
        if not entry.transfer.state.ended:
            entry.transfer = entry.transfer.changed(self._clock())
            entry.changed.notify_all()

    def _share_rate(self) -> None:
        self._rates.share(self._entries.values())

    # -- checks

    def _entry(self, transfer_id: str) -> Entry:
        entry = self._entries.get(transfer_id)
        if entry is None:
            raise TransferNotFound(message=f"there is no transfer {transfer_id!r}")
        return entry

    async def _check_target(self, order: TransferOrder) -> None:
        if order.mode.writes and await self._is_converted(Path(order.target_path)):
            raise TargetConverted(message=f"{order.target_path} holds a converted guest")
        for other in self._entries.values():
            if other.task is not None and other.transfer.order.target_path == order.target_path:
                raise TargetBusy(
                    message=f"transfer {other.transfer.id} is at work on {order.target_path}",
                    metadata={"transfer_id": other.transfer.id},
                )

    async def _check_epoch(self, target_path: str, epoch: int) -> None:
        seen = await asyncio.to_thread(self._store.fence, target_path)
        if epoch < seen:
            raise StaleEpoch(
                message=f"epoch {epoch} is over: {target_path} has seen epoch {seen}",
                metadata={"epoch": str(epoch), "seen_epoch": str(seen)},
            )
        if epoch > seen:
            await asyncio.to_thread(self._store.raise_fence, target_path, epoch)


def _is_newer(entry: Entry, revision: int) -> bool:
    return entry.transfer.revision > revision
