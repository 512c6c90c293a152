"""Streams the areas of a disk that changed between a change id and a snapshot.

vCenter answers QueryChangedDiskAreas with one page, for a part of the disk; a page may have no
areas although later ones do. Other products that stopped at an empty page, or relied on a page's
end, lost data (containerized-data-importer#3534). Therefore every page is checked against the one
before, and the last one must end at the capacity. Adjacent areas are merged.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from services.vmware_agent.errors import CbtReset, DiskNotFound
from services.vmware_agent.ports import VCenter
from services.vmware_agent.vm import Area, ChangedAreaPage, SnapshotDisk

# The change id with which vCenter reports all areas in use instead of those that changed.
AREAS_IN_USE = "*"


@dataclass(frozen=True)
class Progress:
    """The next `areas`, in order. All changed areas before `covered_bytes` have been reported."""

    areas: tuple[Area, ...]
    covered_bytes: int
    capacity_bytes: int


async def stream_changed_areas(
    vcenter: VCenter, vm: str, snapshot: str, disk_key: int, change_id: str
) -> AsyncIterator[Progress]:
    """Yield the changed areas of one disk, page by page; adjacent areas are merged across pages.

    The last `Progress` covers the whole capacity. `change_id` is that of the pass before, or "*"
    for the areas in use. Raises CbtReset when vCenter does not know the areas or its answer is
    malformed, SnapshotNotFound and DiskNotFound.
    """
    disk = await _disk(vcenter, snapshot, disk_key)
    _check_same_tracking(disk, change_id)
    capacity = disk.capacity_bytes
    offset = 0
    open_area: Area | None = None  # The last area, if it ends at its page's end: may continue.
    while offset < capacity:
        page = await vcenter.changed_areas(vm, snapshot, disk_key, change_id, offset)
        _check_page(page, offset, capacity, disk_key)
        offset += page.length
        areas = _merge(open_area, page.areas)
        last_page = offset >= capacity
        open_area = areas.pop() if areas and areas[-1].end == offset and not last_page else None
        yield Progress(tuple(areas), open_area.start if open_area else offset, capacity)


async def _disk(vcenter: VCenter, snapshot: str, disk_key: int) -> SnapshotDisk:
    for disk in await vcenter.snapshot_disks(snapshot):
        if disk.key == disk_key:
            return disk
    raise DiskNotFound(
        message=f"snapshot {snapshot} has no disk {disk_key}", metadata={"disk": str(disk_key)}
    )


def _check_same_tracking(disk: SnapshotDisk, change_id: str) -> None:
    if disk.change_id is None:
        raise CbtReset.of(
            disk.key, "no_change_id", f"disk {disk.key} was not tracked when the snapshot was made"
        )
    if not change_id:
        raise CbtReset.of(
            disk.key, "no_change_id", f"there is no change id of an earlier pass of disk {disk.key}"
        )
    if change_id != AREAS_IN_USE and _tracking_uuid(change_id) != _tracking_uuid(disk.change_id):
        raise CbtReset.of(
            disk.key,
            "uuid_changed",
            f"tracking of disk {disk.key} was reset: its change id went from {change_id} to "
            f"{disk.change_id}",
        )


def _tracking_uuid(change_id: str) -> str:
    """The uuid of "<uuid>/<n>", which stays the same until tracking is reset."""
    return change_id.partition("/")[0].strip().lower()


def _check_page(page: ChangedAreaPage, offset: int, capacity: int, disk_key: int) -> None:
    def malformed(what: str) -> CbtReset:
        return CbtReset.of(
            disk_key,
            "malformed_answer",
            f"vCenter's answer for disk {disk_key} from byte {offset} is malformed: {what}",
        )

    end = page.start + page.length
    if page.start != offset:
        raise malformed(f"it starts at byte {page.start}")
    if page.length <= 0:
        raise malformed(f"it covers {page.length} bytes")
    if end > capacity:
        raise malformed(f"it ends at byte {end}, after the disk's end at {capacity}")
    behind = offset
    for area in page.areas:
        if area.length <= 0:
            raise malformed(f"an area at byte {area.start} has {area.length} bytes")
        if area.start < behind:
            raise malformed(
                f"an area at byte {area.start} overlaps one before it or is out of order"
            )
        if area.end > end:
            raise malformed(f"an area ends at byte {area.end}, after the answer's end at {end}")
        behind = area.end


def _merge(open_area: Area | None, areas: tuple[Area, ...]) -> list[Area]:
    """`open_area` and the areas, with those that touch merged."""
    merged = [open_area] if open_area is not None else []
    for area in areas:
        if merged and merged[-1].end == area.start:
            merged[-1] = Area(merged[-1].start, merged[-1].length + area.length)
        else:
            merged.append(area)
    return merged
