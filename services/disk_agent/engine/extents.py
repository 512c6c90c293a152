"""The allocation of an export, queried window by window while the pass advances."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import nbd

from services.disk_agent.engine.endpoint import Endpoint, Extent
from services.disk_agent.engine.ranges import Range, by_chunk, total_bytes

WINDOW_BYTES = 2 << 30
# Below this a query costs more than reading the range and looking for zeroes.
_WORTH_A_QUERY_BYTES = 16 << 20


class ExtentWindows:
    """Extents of one connection; those of one window at a time are in memory.

    A source that reports no extents is read in full, which is slower and gives the same result;
    `notice` is then called once.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        notice: Callable[[str], None],
        *,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        self._endpoint = endpoint
        self._notice = notice
        self._window_bytes = window_bytes
        self.degraded = not endpoint.has_extents
        if self.degraded:
            notice("the source does not report extents: everything is read")

    def runs(self, offset_bytes: int, end_bytes: int) -> Iterator[Extent]:
        """The allocation of a range in ascending order, cut at window boundaries."""
        at = offset_bytes
        while at < end_bytes:
            # Windows end at multiples of their size, so that no chunk lies in two windows.
            stop = min(end_bytes, (at // self._window_bytes + 1) * self._window_bytes)
            yield from self._window(at, stop - at)
            at = stop

    def runs_of(self, ranges: list[Range]) -> Iterator[Extent]:
        """The allocation of sorted ranges. Those in a window with few bytes count as data: they are
        not queried.
        """
        for _, pieces in by_chunk(ranges, self._window_bytes):
            if total_bytes(pieces) < _WORTH_A_QUERY_BYTES:
                yield from (Extent(offset, length, False) for offset, length in pieces)
            else:
                begin = pieces[0].offset_bytes
                yield from _within(pieces, self._window(begin, pieces[-1].end_bytes - begin))

    def _window(self, offset_bytes: int, length_bytes: int) -> list[Extent]:
        if not self.degraded:
            try:
                return self._endpoint.extents(offset_bytes, length_bytes)
            except nbd.Error as error:
                if self._endpoint.is_lost():
                    raise self._endpoint.failure(error.errnum, error.string) from error
                self.degraded = True
                self._notice(f"extents failed, everything is read from here on: {error.string}")
        return [Extent(offset_bytes, length_bytes, False)]


def _within(pieces: list[Range], extents: Iterable[Extent]) -> Iterator[Extent]:
    """The parts of extents that lie in pieces; both ascend, and the extents cover the pieces."""
    waiting = deque(pieces)
    for extent in extents:
        end = extent.offset_bytes + extent.length_bytes
        while waiting and waiting[0].offset_bytes < end:
            piece = waiting.popleft()
            stop = min(piece.end_bytes, end)
            yield Extent(piece.offset_bytes, stop - piece.offset_bytes, extent.zero)
            if stop < piece.end_bytes:
                waiting.appendleft(Range(stop, piece.end_bytes - stop))


def is_blank(endpoint: Endpoint) -> bool:
    """Whether an export reports that all of it reads as zeroes; False if it reports no extents."""
    if not endpoint.has_extents:
        return False
    try:
        at = 0
        while at < endpoint.size_bytes:
            length = min(WINDOW_BYTES, endpoint.size_bytes - at)
            if any(not extent.zero for extent in endpoint.extents(at, length)):
                return False
            at += length
    except nbd.Error:
        return False
    return True
