"""How long records of ended work are kept: transfers, their maps and ranges, conversions and logs.

All records of an image are removed together, when no migration uses the image any more and no work
on it has run for long enough. Of an image in use only the transfers of old passes are removed: a
pass begins after the previous one was recorded as durable, and nothing needs the transfers of that
one any more.
"""

import asyncio
import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import structlog

from services.disk_agent.conversions.conversion import Conversion
from services.disk_agent.conversions.registry import Conversions
from services.disk_agent.storage.images import Images
from services.disk_agent.transfers.errors import TransferRunning
from services.disk_agent.transfers.registry import Transfers
from services.disk_agent.transfers.transfer import Transfer
from services.disk_agent.worker.range_sets import RangeSets

# For an image in use, so that a person can look up the last passes.
_PASSES_KEPT = 10

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Pruned:
    """How many records were removed."""

    transfers: int
    conversions: int
    range_sets: int


class Retention:
    """Removes records from all parts of this agent that keep any."""

    def __init__(
        self, transfers: Transfers, conversions: Conversions, ranges: RangeSets, images: Images
    ) -> None:
        self._transfers = transfers
        self._conversions = conversions
        self._ranges = ranges
        self._images = images

    async def prune(
        self,
        images_in_use: Collection[str],
        ranges_in_use: Collection[str],
        ended_before: float,
    ) -> Pruned:
        """Remove what ended before a time (seconds since the epoch) and is not needed any more.

        ``images_in_use`` are those of migrations that have not ended, ``ranges_in_use`` range sets
        that one of them has stored and may not have started a transfer with.
        """
        transfers, conversions = self._transfers.list(), self._conversions.list()
        keep = set(images_in_use) | _recent(transfers, conversions, ended_before)
        dead = {each.order.target_path for each in transfers} - keep
        old_conversions = [each for each in conversions if keep.isdisjoint(_images_of(each))]
        for conversion in old_conversions:
            dead |= _images_of(conversion)
        for path in dead:
            await self._forget_image(path)
        for conversion in old_conversions:
            await self._conversions.delete(conversion.id)
        # Transfers go last: if this is interrupted, the next call finds the image by them.
        superseded = _superseded(transfers)
        gone = superseded | {each.id for each in transfers if each.order.target_path in dead}
        for transfer_id in gone:
            with contextlib.suppress(TransferRunning):
                await self._transfers.delete(transfer_id)
        used = {each.order.ranges_id for each in self._transfers.list()}
        range_sets = await asyncio.to_thread(
            self._ranges.prune, used.union(ranges_in_use), ended_before
        )
        pruned = Pruned(len(gone), len(old_conversions), range_sets)
        if gone or old_conversions or range_sets:
            _log.info(
                "records of ended work were removed",
                action="records.pruned",
                transfers=pruned.transfers,
                conversions=pruned.conversions,
                range_sets=pruned.range_sets,
            )
        return pruned

    async def _forget_image(self, path: str) -> None:
        await self._transfers.forget_image(path)
        await self._conversions.forget_image(Path(path))
        await asyncio.to_thread(self._images.forget, Path(path))


def _recent(
    transfers: Collection[Transfer], conversions: Collection[Conversion], ended_before: float
) -> set[str]:
    """Images with work that runs, ended after `ended_before`, or has to finish a commit."""
    found: set[str] = set()
    for transfer in transfers:
        if transfer.end_time is None or transfer.end_time >= ended_before:
            found.add(transfer.order.target_path)
    for conversion in conversions:
        ended = conversion.end_time is not None and conversion.end_time < ended_before
        if conversion.committing or not ended:
            found |= _images_of(conversion)
    return found


def _images_of(conversion: Conversion) -> set[str]:
    return {str(path) for path in conversion.request.image_paths}


def _superseded(transfers: Collection[Transfer]) -> set[str]:
    """The ids of ended transfers older than the last `_PASSES_KEPT` passes of their image."""
    newest: dict[str, int] = {}
    for transfer in transfers:
        order = transfer.order
        newest[order.target_path] = max(newest.get(order.target_path, 0), order.pass_number)
    return {
        each.id
        for each in transfers
        if each.state.ended
        and each.order.pass_number <= newest[each.order.target_path] - _PASSES_KEPT
    }
