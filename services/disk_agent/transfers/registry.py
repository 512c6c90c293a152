"""Transfers as resources: start, attach, watch, cancel; each with a worker of its own.

All methods run on the event loop; files are written in threads. A transfer is written to disk when
its state changes; progress between these changes is in memory only.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog

from services.config import Secret
from services.disk_agent.engine.progress import Progress
from services.disk_agent.resources.record import State
from services.disk_agent.resources.registry import Registry, to_the_end
from services.disk_agent.transfer_failures import AgentRestarted, WorkerDied
from services.disk_agent.transfers.checks import check, identity
from services.disk_agent.transfers.errors import (
    TargetBusy,
    TargetConverted,
    TransferEnded,
    TransferExists,
    TransferNotFound,
    TransferRunning,
)
from services.disk_agent.transfers.rate_keeping import RateKeeper, TransferEntry
from services.disk_agent.transfers.rates import RateShares
from services.disk_agent.transfers.store import TransferStore
from services.disk_agent.transfers.supervisor import Event, RunningWorker, WorkerLauncher
from services.disk_agent.transfers.transfer import Transfer, changes_at_end
from services.disk_agent.worker.order import TransferOrder
from services.disk_agent.worker.range_sets import RangeSets
from services.kit.failure import Failure, ServiceError

# How often the limits file and the calendar are checked.
_RATE_SECONDS = 1.0
_NO_PASSWORD = Secret("")

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
        """`is_converted` is true of images that hold a converted guest: those are never written.

        `rates` divides the agent's rate; without it, a transfer has only a limit of its own.
        """
        self._is_converted = is_converted
        self._store = store
        self._launcher = launcher
        self._ranges = ranges
        self._rates = RateKeeper(rates or RateShares(), clock)
        self._registry: Registry[Transfer, TransferEntry] = Registry(
            "transfer",
            store,
            store,
            entry=TransferEntry,
            not_found=TransferNotFound,
            clock=clock,
        )
        self._stopping = False

    async def recover(self) -> None:
        """Load the transfers of earlier agents. Those that were running are FAILED, retryable."""
        await self._registry.recover(_restarted)

    async def stop(self) -> None:
        """Have all workers checkpoint and end; their transfers are FAILED and retryable."""
        self._stopping = True
        entries = [entry for entry in self._registry.entries() if entry.task is not None]
        workers = [entry.worker for entry in entries if entry.worker is not None]
        await asyncio.gather(*(worker.stop() for worker in workers))
        await asyncio.gather(*(entry.task for entry in entries if entry.task is not None))

    # -- commands

    async def start(
        self,
        order: TransferOrder,
        *,
        password: Secret = _NO_PASSWORD,
        epoch: int = 0,
        rate: int = 0,
    ) -> tuple[Transfer, bool]:
        """Start, attach to, or resume a transfer; returns it and whether it existed.

        `rate` is the transfer's own limit in bytes a second; with 0 the agent's limits apply.
        Raises InvalidTransfer, TransferExists, TransferEnded, TargetBusy, TargetConverted or
        StaleEpoch.
        """
        check(order)
        async with self._registry.commands:
            await self._registry.check_epoch([order.target_path], epoch)
            entry = self._registry.find(order.transfer_id)
            if entry is not None:
                transfer = entry.record
                if identity(transfer.order) != identity(order):
                    raise TransferExists(
                        f"transfer {order.transfer_id} exists with other parameters"
                    )
                if transfer.state is State.CANCELLED:
                    raise TransferEnded(f"transfer {transfer.id} was cancelled")
                if transfer.state is not State.FAILED:
                    return transfer, True
            await self._check_target(order)
            existed = entry is not None
            now = self._registry.now()
            before = entry.record if entry is not None else Transfer(order, State.QUEUED, 0, now)
            queued = before.changed(
                now,
                # A retry may come with better tuning or a corrected server.
                order=order,
                state=State.QUEUED,
                epoch=epoch,
                failure=None,
                end_time=None,
                rate_bytes_per_second=rate or self._rates.transfer_rate,
                paused=False,
            )
            entry = await self._registry.put(queued)
            # Nothing is awaited from here on: a caller that gives up cannot leave it half-started.
            entry.cancelled, entry.default_rate = False, not rate
            entry.task = asyncio.create_task(self._supervise(entry, password))
            return entry.record, existed

    def get(self, transfer_id: str) -> Transfer:
        """A transfer now. Raises TransferNotFound."""
        return self._registry.entry(transfer_id).record

    def list(self, target_path: str = "") -> list[Transfer]:
        """Transfers, of one image or all, newest first."""
        found = self._registry.records()
        return [each for each in found if target_path in ("", each.order.target_path)]

    def watch(self, transfer_id: str, after_revision: int = 0) -> AsyncIterator[Transfer]:
        """Snapshots newer than a revision, at least one a second, until the transfer has ended."""
        return self._registry.watch(transfer_id, after_revision)

    async def cancel(self, transfer_id: str, *, epoch: int = 0) -> Transfer:
        """End a transfer, which cannot be started again, and wait until its processes have ended.

        One that succeeded stays SUCCEEDED. Raises TransferNotFound or StaleEpoch.
        """
        async with self._registry.commands:
            entry = self._registry.entry(transfer_id)
            await self._registry.check_epoch([entry.record.order.target_path], epoch)
            task, worker = entry.task, entry.worker
            if task is None:
                await self._registry.cancel_failed(entry)
            else:
                entry.cancelled = True
        if task is not None:
            # Shielded: a caller that gives up waiting does not revoke the cancel.
            await asyncio.shield(self._end(worker, task))
        return entry.record

    async def _end(self, worker: RunningWorker | None, task: asyncio.Task[None]) -> None:
        if worker is not None:
            await worker.stop("cancel")
        # A worker that was still being started gets the command from the supervising task.
        await task

    async def set_rate(self, transfer_id: str, bytes_per_second: int) -> Transfer:
        """Change a transfer's rate limit, 0 for none. Raises TransferNotFound."""
        entry = self._registry.entry(transfer_id)
        entry.default_rate = False
        await self._registry.change(entry, rate_bytes_per_second=bytes_per_second)
        self._share_rate()
        return entry.record

    async def keep_rates(self, changed: Callable[[], RateShares | None] = lambda: None) -> None:
        """Apply the calendar, and limits that were changed, until cancelled.

        `changed` blocks; it returns new limits once, and None otherwise.
        """
        while True:
            await asyncio.sleep(_RATE_SECONDS)
            try:
                rates = await asyncio.to_thread(changed)
            except Exception as error:
                # The calendar must be applied even if the file cannot be read.
                _log.error("limits cannot be read", action="limits.defect", exc_info=error)
                rates = None
            if rates is not None:
                self._rates.replace(rates, self._registry.entries())
            self._share_rate()

    async def pause(self, transfer_id: str, *, paused: bool, epoch: int = 0) -> Transfer:
        """Pause a transfer, or resume it; one that has ended stays as it is.

        Epoch 0 means a call by a person, who has no epoch. It is allowed, because pausing does no
        harm. Raises TransferNotFound or StaleEpoch.
        """
        async with self._registry.commands:
            entry = self._registry.entry(transfer_id)
            if epoch:
                await self._registry.check_epoch([entry.record.order.target_path], epoch)
            if entry.task is not None:
                await self._registry.change(entry, paused=paused)
                if entry.worker is not None:
                    entry.worker.command("pause" if paused else "resume")
                # The others share the rate of a paused transfer.
                self._share_rate()
            return entry.record

    async def delete(self, transfer_id: str) -> None:
        """Delete an ended transfer; a missing one is no error. Raises TransferRunning."""
        async with self._registry.commands:
            entry = self._registry.find(transfer_id)
            if entry is None:
                return
            if entry.task is not None:
                raise TransferRunning(f"transfer {transfer_id} is running")
            await to_the_end(self._store.delete, entry.record)
            ranges_id = entry.record.order.ranges_id
            if ranges_id:
                await to_the_end(self._ranges.delete, ranges_id)
            self._registry.forget(transfer_id)

    def check_idle(self, target_path: str) -> None:
        """Raise TransferRunning if a transfer is running on an image."""
        for entry in self._registry.entries():
            if entry.task is not None and entry.record.order.target_path == target_path:
                raise TransferRunning(f"transfer {entry.record.id} is running on {target_path}")

    def at_work_in(self, directory: Path) -> str:
        """What is at work on an image below a directory, or nothing; from any thread."""
        for entry in self._registry.entries():
            target = Path(entry.record.order.target_path)
            if entry.task is not None and target.is_relative_to(directory):
                return f"transfer {entry.record.id}"
        return ""

    async def forget_image(self, target_path: str) -> None:
        """Remove the chunk map and the fence of an image that was deleted.

        Raises TransferRunning while a transfer is running on it.
        """
        async with self._registry.commands:
            self.check_idle(target_path)
            await to_the_end(self._store.forget_image, target_path)

    # -- supervision

    async def _supervise(self, entry: TransferEntry, password: Secret) -> None:
        """Run one attempt to its end. Never raises: a failure becomes the transfer's state."""
        order = entry.record.order
        log = _log.bind(transfer_id=order.transfer_id, disk_id=order.disk_id)
        changes: dict[str, Any]
        try:
            changes = await self._attempt(entry, password)
        except ServiceError as error:
            changes = {"state": State.FAILED, "failure": error.failure}
        except Exception as error:
            log.error("supervision failed", action="transfer.defect", exc_info=error)
            died = WorkerDied.described(
                "the disk agent lost track of the worker because of a defect; see the agent's log"
            )
            changes = {"state": State.FAILED, "failure": died}
        entry.worker = None
        ended = await self._registry.finish(entry, paused=False, effective_rate=0, **changes)
        self._share_rate()
        log.info(
            "transfer ended",
            action="transfer.ended",
            state=ended.state.value,
            reason=ended.failure.reason if ended.failure is not None else None,
        )

    async def _attempt(self, entry: TransferEntry, password: Secret) -> dict[str, Any]:
        """Run one worker; returns the changes that it reported at its end."""
        order = entry.record.order
        self._share_rate()
        entry.sent_rate = entry.record.effective_rate
        ranges_path = str(self._ranges.path(order.ranges_id)) if order.ranges_id else ""
        worker = await self._launcher.launch(
            order,
            map_path=self._store.map_path(order.target_path),
            ranges_path=ranges_path,
            rate=entry.sent_rate,
            password=password,
        )
        entry.worker = worker
        if entry.cancelled or self._stopping:
            worker.command("cancel" if entry.cancelled else "stop")
        if entry.record.paused:
            worker.command("pause")
        self._share_rate()
        attempts = entry.record.attempts + 1
        await self._registry.change(entry, state=State.RUNNING, attempts=attempts)
        _log.info(
            "transfer running",
            action="transfer.running",
            mode=order.mode.value,
            transfer_id=order.transfer_id,
            disk_id=order.disk_id,
        )
        await self._registry.try_to_save(entry.record)
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        following = asyncio.create_task(self._follow(entry, events))
        try:
            end = await worker.run(events.put_nowait)
        finally:
            events.put_nowait(None)
            await following
        return changes_at_end(end)

    async def _follow(self, entry: TransferEntry, events: asyncio.Queue[Event | None]) -> None:
        while (event := await events.get()) is not None:
            if event["event"] == "progress":
                progress = Progress.from_wire(event["progress"])
                await self._registry.change(entry, progress=progress)
            else:
                _log.warning(
                    event["message"], action="transfer.notice", transfer_id=entry.record.id
                )

    def _share_rate(self) -> None:
        self._rates.share(self._registry.entries())

    async def _check_target(self, order: TransferOrder) -> None:
        if order.mode.writes and await self._is_converted(Path(order.target_path)):
            raise TargetConverted(f"{order.target_path} holds a converted guest")
        for other in self._registry.entries():
            if other.task is not None and other.record.order.target_path == order.target_path:
                raise TargetBusy(
                    f"transfer {other.record.id} is running on {order.target_path}",
                    metadata={"transfer_id": other.record.id},
                )


def _restarted(_transfer: Transfer) -> Failure:
    return AgentRestarted.described("the disk agent was restarted while this transfer was running")
