"""The worker with a digest that costs nothing: what digests cost is the difference.

Only here: a copy without digests could not be verified, so the product has no such switch.
"""

import sys

from services.disk_agent.chunk_map.chunk_map import NO_DIGEST
from services.disk_agent.chunk_map.digests import ALGORITHMS, XXH3_128
from services.disk_agent.worker.__main__ import main

if __name__ == "__main__":
    ALGORITHMS[XXH3_128] = ALGORITHMS[XXH3_128]._replace(digest_of=lambda _memory: NO_DIGEST)
    sys.exit(main())
