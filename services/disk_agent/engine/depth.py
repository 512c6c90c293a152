"""How much is in flight: little where the source answers at once, more where it is far.

Why, and what was measured: docs/adr/0005-requests-in-flight.md.
"""

# The share of time in which all there is waits for the source: above it more would help.
_STARVED_SHARE = 0.3
# Below it less would do.
_FED_SHARE = 0.1
_WINDOW_SECONDS = 0.05


class Depth:
    """The bytes in flight, between two numbers of chunks, by how long the source keeps all waiting.

    They are `least` chunks' as long as a source keeps up with the target, and grow to those of
    `most` for one that does not: latency is hidden by more requests, and a slow line does not mind
    them. What is more than needed would only push the rest out of the processor's caches.

    `starved_seconds` is to be added to whenever all that is in flight waited for the source, and
    `review` to be called from `review_at` on.
    """

    def __init__(self, least: int, most: int, chunk_bytes: int, now: float) -> None:
        self._chunk_bytes = chunk_bytes
        self._least_bytes = min(least, most) * chunk_bytes
        self._most_bytes = most * chunk_bytes
        self.bytes = self._least_bytes
        self.starved_seconds = 0.0
        self.review_at = now + _WINDOW_SECONDS

    def review(self, now: float) -> None:
        """Draw the consequences from the time since the last review."""
        share = self.starved_seconds / (now - self.review_at + _WINDOW_SECONDS)
        if share > _STARVED_SHARE:
            self.bytes = min(self.bytes + 2 * self._chunk_bytes, self._most_bytes)
        elif share < _FED_SHARE:
            self.bytes = max(self.bytes - self._chunk_bytes, self._least_bytes)
        self.starved_seconds = 0.0
        self.review_at = now + _WINDOW_SECONDS
