"""How many bytes are in flight: few for a source with short latency, more for a distant one.

Why, and what was measured: docs/adr/0005-requests-in-flight.md.
"""

# The share of time that the engine is idle, waiting for the source. Above it more bytes in flight
# help.
_STARVED_SHARE = 0.3
# Below this share fewer bytes in flight are enough.
_FED_SHARE = 0.1
_WINDOW_SECONDS = 0.05


class Depth:
    """Adapts the bytes in flight to how long the source keeps the engine idle.

    Their number is the size of `least` chunks while the source keeps up with the target, and grows
    to the size of `most` chunks while it does not: more requests hide latency, and cost nothing on
    a slow line. More than needed would only push other buffers out of the processor's caches.

    The engine adds to `starved_seconds` the time in which only the source had work to do, and
    calls `review` when `review_at` is reached.
    """

    def __init__(self, least: int, most: int, chunk_bytes: int, now: float) -> None:
        self._chunk_bytes = chunk_bytes
        self._least_bytes = min(least, most) * chunk_bytes
        self._most_bytes = most * chunk_bytes
        self.bytes = self._least_bytes
        self.starved_seconds = 0.0
        self.review_at = now + _WINDOW_SECONDS

    def review(self, now: float) -> None:
        """Raise or lower `bytes` by the share of idle time since the last review."""
        share = self.starved_seconds / (now - self.review_at + _WINDOW_SECONDS)
        if share > _STARVED_SHARE:
            self.bytes = min(self.bytes + 2 * self._chunk_bytes, self._most_bytes)
        elif share < _FED_SHARE:
            self.bytes = max(self.bytes - self._chunk_bytes, self._least_bytes)
        self.starved_seconds = 0.0
        self.review_at = now + _WINDOW_SECONDS
