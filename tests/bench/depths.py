"""How many requests in flight are best: ``python -m tests.bench.depths`` prints a table.

Full copies of one disk, interleaved, from sources of several latencies. Of each kind the least
disturbed run counts: its time divided by that of the one with 16 in flight. What it showed is in
docs/adr/0005-requests-in-flight.md.
"""

import sys
import tempfile
import time
from pathlib import Path

from services.disk_agent.engine.core import Tuning
from tests.rigs.disk.transfer import Rig, create_image

_MIB = 1 << 20
_DEPTHS = (4, 8, 12, 16, 32)
_DELAYS = ("0", "2ms", "8ms")
_REFERENCE = 16


def main() -> int:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory(prefix="v2c-depths-") as name:
        rig = Rig(Path(name), "A" * 16)
        rig.chunk_bytes = _MIB
        with rig.source.open("wb") as file:
            for number in range(192):
                file.write(bytes([number % 255 + 1]) * _MIB)
        print("delay   " + "".join(f"{depth:>8}" for depth in _DEPTHS))
        for delay in _DELAYS:
            runs = [_round(rig, delay, turn) for turn in range(rounds)]
            least = {depth: min(run[depth] for run in runs) for depth in _DEPTHS}
            ratios = [least[depth] / least[_REFERENCE] for depth in _DEPTHS]
            print(f"{delay:<8}" + "".join(f"{ratio:8.2f}" for ratio in ratios), flush=True)
    return 0


def _round(rig: Rig, delay: str, turn: int) -> dict[int, float]:
    """Seconds by depth; each round begins with another one."""
    order = _DEPTHS[turn % len(_DEPTHS) :] + _DEPTHS[: turn % len(_DEPTHS)]
    filters = ("--filter=delay",) if delay != "0" else ()
    parameters = (f"rdelay={delay}",) if delay != "0" else ()
    seconds = {}
    for depth in order:
        rig.image.unlink()
        rig.map.unlink(missing_ok=True)
        create_image(rig.image, rig.source.stat().st_size)
        began = [0.0]

        def begin(began: list[float] = began) -> None:
            began[0] = time.monotonic()

        rig.run(
            server=(*filters, "file", str(rig.source), *parameters),
            tuning=Tuning(depth=depth, near_depth=depth),
            before=begin,
        )
        seconds[depth] = time.monotonic() - began[0]
    return seconds


if __name__ == "__main__":
    sys.exit(main())
