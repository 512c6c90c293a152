"""How many requests are in flight: fewer where the source answers at once, all where it is far.

Why, and what was measured: docs/adr/0005-requests-in-flight.md.
"""

from collections.abc import Callable

import nbd

from services.disk_agent.engine.endpoint import Endpoint

# Below this, more in flight only queue up in front of a source that is busy already.
_NEAR_SECONDS = 0.001
_PROBE_BYTES = 4096
# The shortest counts: the first read of a connection may be slow for other reasons.
_PROBES = 3


def depth_for(source: Endpoint, most: int, near: int, now: Callable[[], float]) -> int:
    """`most` requests for a source with a latency, at most `near` for one without. Blocks.

    A source that cannot be read gets `most`: the copy finds out why, and repeats what it may.
    """
    if most <= near or source.size_bytes < _PROBE_BYTES:
        return most
    step = source.size_bytes // _PROBES // _PROBE_BYTES * _PROBE_BYTES
    for number in range(_PROBES):
        began = now()
        try:
            source.handle.pread(_PROBE_BYTES, number * step)
        except nbd.Error:
            return most
        if now() - began < _NEAR_SECONDS:
            return near
    return most
