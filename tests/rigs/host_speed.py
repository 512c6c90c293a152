"""How slow this machine is just now: figures for people's patience are of an ordinary one."""

import json
import statistics
import time

# Objects made, written as JSON and read again by Python 3.11, on an ordinary machine. It takes
# memory, too, which a busy host may be slower to give than anything else.
_OBJECTS = 50_000
_NOMINAL_SECONDS = 0.15
_SAMPLES = 5


def slowness() -> float:
    """The time that such work takes here, as a multiple of the ordinary; at least 1."""
    return max(statistics.median(_work() for _ in range(_SAMPLES)) / _NOMINAL_SECONDS, 1.0)


def _work() -> float:
    began = time.perf_counter()
    objects = [{"a": each, "b": [each] * 5, "c": str(each)} for each in range(_OBJECTS)]
    json.loads(json.dumps(objects))
    return time.perf_counter() - began
