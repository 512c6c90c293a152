"""One pass over one disk: check the sizes, bind the chunk map, run the mode's strategy."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from services.disk_agent.chunk_map.chunk_map import ChunkMap, PassKey
from services.disk_agent.chunk_map.digests import XXH3_128
from services.disk_agent.engine.control import Control
from services.disk_agent.engine.copying import Copy, Resync
from services.disk_agent.engine.core import Engine, Strategy, Tuning
from services.disk_agent.engine.endpoint import Endpoint
from services.disk_agent.engine.extents import ExtentWindows, is_blank
from services.disk_agent.engine.progress import Meter
from services.disk_agent.engine.ranges import Range, chunk_runs, total_bytes, united
from services.disk_agent.engine.repairing import Repair
from services.disk_agent.engine.verifying import Mismatches, VerifyFull, VerifyTarget
from services.disk_agent.transfer_failures import (
    DiskShrank,
    MapUnusable,
    SourceSizeMismatch,
    SourceUnusable,
    TargetReplaced,
    TargetSizeMismatch,
)
from services.disk_agent.worker.image_check import (
    Image,
    check_in_place,
    check_kept,
    compared,
    image_file,
)
from services.disk_agent.worker.modes import Mode
from services.disk_agent.worker.order import TransferOrder

# QCOW2 counts in sectors, so an image may be larger than the disk by less than one.
_SECTOR_BYTES = 512


@dataclass
class Surroundings:
    """What a pass needs beside its order: control, tuning, a clock, and callbacks for reports."""

    control: Control
    tuning: Tuning
    notice: Callable[[str], None]
    report: Callable[[], None]
    now: Callable[[], float] = time.monotonic
    # The algorithm of the digests in a new map.
    digest: str = XXH3_128


class DiskPass:
    """A pass that may be run several times: each run continues where the last one ended."""

    def __init__(
        self,
        order: TransferOrder,
        map_path: Path,
        ranges: list[Range],
        surroundings: Surroundings,
    ) -> None:
        self._order = order
        self._map_path = map_path
        self._ranges = ranges
        # The ranges, and the areas that an earlier pass left pending.
        self._areas = ranges
        self._around = surroundings
        self.meter = Meter(order.capacity_bytes, surroundings.now)
        self.digest = ""
        # Identifies the image's file, to notice when another file replaces it.
        self._image: os.stat_result | None = None

    def needs_source(self) -> bool:
        """Whether the mode reads the source: VERIFY_TARGET does if the map lacks a chunk's digest.

        Raises MapUnusable when there is no map to verify against.
        """
        if self._order.mode is not Mode.VERIFY_TARGET:
            return True
        with self._needed("verifying the target") as chunk_map:
            return chunk_map.lacks_digests()

    def run(self, source: Endpoint | None, target: Endpoint) -> None:
        """Run to the end. Raises TransferFailure; the map then holds what was done until then."""
        self._check_sizes(source, target)
        self._image = self._image or image_file(self._order.target_path)
        self.meter.begin_run(resumes=self._order.mode.copies)
        with ExitStack() as stack:
            chunk_map = stack.enter_context(self._bound_map(target))
            if chunk_map.damaged_pages:
                self._around.notice(f"{chunk_map.damaged_pages} pages of the map were damaged")
            header = chunk_map.header
            if self._order.mode.copies and header.complete:
                # The pass had completed before, and was started again: nothing is left to do.
                self.meter.total_bytes = self._total()
                self.meter.resumed_bytes = self.meter.total_bytes
            else:
                written = self._run_strategy(chunk_map, source, target)
                image_bytes = check_in_place(self._order.target_path, self._image)
                if self._order.mode.copies:
                    check_kept(chunk_map, target, written)
                    chunk_map.complete_pass(image_bytes)
            self.digest = chunk_map.digest()
        self._around.report()

    def _run_strategy(
        self, chunk_map: ChunkMap, source: Endpoint | None, target: Endpoint
    ) -> Sequence[int]:
        """Run the mode to its end; returns a sample of the chunks that it copied whole."""
        mismatches = Mismatches(self._order.disk_id)
        strategy = self._strategy(chunk_map, source, target, mismatches)
        self.meter.total_bytes = self._total()
        engine = Engine(
            source=source,
            target=target,
            chunk_map=chunk_map,
            control=self._around.control,
            meter=self.meter,
            tuning=self._around.tuning,
            now=self._around.now,
            report=self._around.report,
        )
        engine.run(strategy)
        mismatches.raise_if_any()
        return engine.checkpoints.sampled

    def _strategy(
        self,
        chunk_map: ChunkMap,
        source: Endpoint | None,
        target: Endpoint,
        mismatches: Mismatches,
    ) -> Strategy:
        order, meter, notice = self._order, self.meter, self._around.notice
        capacity = order.capacity_bytes
        if order.mode is Mode.VERIFY_TARGET:
            runs = ExtentWindows(target, notice).runs(0, capacity)
            return VerifyTarget(runs, chunk_map, meter, mismatches, source)
        if source is None:
            raise SourceUnusable(f"mode {order.mode} needs a source")
        if order.mode is Mode.REPAIR:
            runs = ExtentWindows(target, notice).runs(0, capacity)
            return Repair(runs, chunk_map, meter, mismatches)
        windows = ExtentWindows(source, notice)
        if order.mode is Mode.RANGES:
            return Copy(windows.runs_of(self._areas), chunk_map, meter)
        runs = windows.runs(0, capacity)
        if order.mode is Mode.FULL:
            return Copy(runs, chunk_map, meter)
        if order.mode is Mode.RESYNC:
            return Resync(runs, chunk_map, meter, source)
        return VerifyFull(runs, chunk_map, meter, mismatches, target)

    def _total(self) -> int:
        if self._order.mode is not Mode.RANGES:
            return self._order.capacity_bytes
        return total_bytes(self._areas)

    def _check_sizes(self, source: Endpoint | None, target: Endpoint) -> None:
        capacity = self._order.capacity_bytes
        if source is not None and source.size_bytes != capacity:
            raise SourceSizeMismatch(
                f"the source has {source.size_bytes} bytes, the disk should have {capacity}"
            )
        if not capacity <= target.size_bytes < capacity + _SECTOR_BYTES:
            raise TargetSizeMismatch(
                f"the image has {target.size_bytes} bytes, the disk {capacity}"
            )

    # -- binding the map

    def _bound_map(self, target: Endpoint) -> ChunkMap:
        bind = {
            Mode.FULL: self._map_for_full,
            Mode.RANGES: self._map_for_ranges,
            Mode.RESYNC: self._map_for_resync,
            Mode.VERIFY_TARGET: self._map_for_verify_target,
            Mode.VERIFY_FULL: self._map_for_verify_full,
            Mode.REPAIR: self._map_for_repair,
        }
        return bind[self._order.mode](target)

    @property
    def _key(self) -> PassKey:
        order = self._order
        return PassKey(str(order.pass_number), order.snapshot_id, order.mode.value)

    def _existing(self) -> ChunkMap | None:
        """The map at the order's path; None when there is none, or it is of another disk."""
        try:
            found = ChunkMap.open(self._map_path)
        except FileNotFoundError:
            return None
        if found.header.disk_id != self._order.disk_id:
            found.close()
            return None
        return found

    def _needed(self, what_for: str) -> ChunkMap:
        found = self._existing()
        if found is None:
            raise MapUnusable(f"{what_for} needs the chunk map of disk {self._order.disk_id}")
        if not found.header.complete_pass_id and found.header.key != self._key:
            found.close()
            raise MapUnusable(
                f"{what_for} needs a complete copy of disk {self._order.disk_id}, but its base "
                "copy never ended"
            )
        return found

    def _fresh(self, path: Path | None = None) -> ChunkMap:
        order = self._order
        return ChunkMap.create(
            path or self._map_path,
            order.disk_id,
            order.capacity_bytes,
            order.chunk_bytes,
            self._around.digest,
        )

    def _map_for_full(self, target: Endpoint) -> ChunkMap:
        found = self._existing_or_damaged()
        if found is not None:
            if self._continues(found, target):
                return found
            found.close()
        fresh = self._fresh()
        fresh.begin_pass(self._key, blank_target=is_blank(target))
        return fresh

    def _existing_or_damaged(self) -> ChunkMap | None:
        try:
            return self._existing()
        except MapUnusable as error:
            self._around.notice(f"{error.message}: the whole disk is read from the start")
            return None

    def _continues(self, found: ChunkMap, target: Endpoint) -> bool:
        """Whether a full copy can continue with this map; if so, binds the map to the pass."""
        header = found.header
        image = self._compared(found, target)
        if image is Image.ANOTHER:
            # The image may be another machine's: copying would overwrite it.
            raise TargetReplaced(f"{image.value} ({found.path})")
        if header.capacity_bytes != self._order.capacity_bytes or header.mode != Mode.FULL:
            return False
        same = header.key == self._key
        # Also when this disk's copy completed on the old snapshot and another disk's did not.
        moved = not same and bool(self._order.ranges_id)
        if not same and not moved:
            return False
        if image is Image.EMPTY:
            self._around.notice(f"{image.value}: copying anew")
            return False
        if not found.holds_data() and not is_blank(target):
            # The target holds data that the map does not record: zeroes must be written, too.
            return False
        if moved:
            found.rebind(self._key, chunk_runs(self._ranges, header.chunk_bytes))
        else:
            found.begin_pass(self._key)
        return True

    def _map_for_ranges(self, target: Endpoint) -> ChunkMap:
        found = self._needed("applying changed areas")
        header = found.header
        if header.mode == Mode.RESYNC and not header.complete:
            found.close()
            raise MapUnusable(
                "cannot apply changed areas: an earlier re-sync of the disk never ended"
            )
        self._grow(found)
        image = self._compared(found, target)
        if image is not Image.AS_RECORDED:
            found.close()
            raise MapUnusable(f"cannot apply changed areas: {image.value}")
        found.begin_pass(self._key, stale=chunk_runs(self._ranges, header.chunk_bytes))
        self._areas = self._with_pending(found)
        return found

    def _with_pending(self, found: ChunkMap) -> list[Range]:
        chunk, capacity = found.header.chunk_bytes, self._order.capacity_bytes
        pending = [
            Range(first * chunk, min(stop * chunk, capacity) - first * chunk)
            for first, stop in found.pending_runs()
        ]
        return united([*self._areas, *pending])

    def _map_for_resync(self, target: Endpoint) -> ChunkMap:
        found = self._existing_or_damaged() or self._fresh()
        self._grow(found)
        found.begin_pass(self._key)
        image = self._compared(found, target)
        if image is not Image.AS_RECORDED:
            self._around.notice(f"{image.value}: every byte is compared")
            found.close()
            found = self._fresh()
            found.begin_pass(self._key)
        return found

    def _map_for_verify_target(self, target: Endpoint) -> ChunkMap:
        return self._whole("verifying the target")

    def _map_for_repair(self, target: Endpoint) -> ChunkMap:
        return self._whole("repairing the image")

    def _whole(self, what_for: str) -> ChunkMap:
        """The map of a completed pass over a disk of this size. Raises MapUnusable."""
        found = self._needed(what_for)
        header, capacity = found.header, self._order.capacity_bytes
        wrong = ""
        if header.capacity_bytes != capacity:
            wrong = f"is of {header.capacity_bytes} bytes, the disk has {capacity}"
        elif not header.complete:
            wrong = f"is of pass {header.pass_id}, which has not ended"
        if wrong:
            found.close()
            raise MapUnusable(f"{what_for} is not possible: the chunk map {wrong}")
        return found

    def _map_for_verify_full(self, target: Endpoint) -> ChunkMap:
        found = self._existing_or_damaged()
        if found is not None:
            if found.header.capacity_bytes == self._order.capacity_bytes:
                return found
            found.close()
        # Both sides are read, so an empty map is enough. Its file must not replace another map.
        spare = self._fresh(self._map_path.with_name(f"{self._map_path.name}.spare"))
        spare.path.unlink()
        return spare

    def _compared(self, found: ChunkMap, target: Endpoint) -> Image:
        try:
            return compared(found, target, Path(self._order.target_path))
        except BaseException:
            found.close()
            raise

    def _grow(self, found: ChunkMap) -> None:
        capacity = self._order.capacity_bytes
        if capacity < found.header.capacity_bytes:
            before = found.header.capacity_bytes
            found.close()
            raise DiskShrank(f"the disk shrank from {before} to {capacity} bytes")
        if capacity > found.header.capacity_bytes:
            found.grow(capacity)
