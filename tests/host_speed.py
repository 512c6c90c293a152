"""How slow this machine is just now: figures for people's patience are of an ordinary one."""

import statistics
import time

# A million additions in Python 3.11, on the machine that the tests' bounds were set on.
_NOMINAL_SECONDS = 0.06
_SAMPLES = 5


def slowness() -> float:
    """The time that Python takes here, as a multiple of that machine's; at least 1."""
    return max(statistics.median(_loop() for _ in range(_SAMPLES)) / _NOMINAL_SECONDS, 1.0)


def _loop() -> float:
    began = time.perf_counter()
    total = 0
    for number in range(1_000_000):
        total += number
    return time.perf_counter() - began
