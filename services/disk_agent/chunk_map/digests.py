"""The algorithms by which chunks are digested and compared; each chunk map names its own."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import xxhash
from blake3 import blake3

DIGEST_BYTES = 16
XXH3_128 = "xxh3_128"
BLAKE3 = "blake3"

DigestOf = Callable[[memoryview], bytes]
"""The digest, `DIGEST_BYTES` long, of some bytes."""


class Hash(Protocol):
    """Digests bytes that come in parts; what counts is the first `DIGEST_BYTES` of the digest."""

    def update(self, data: bytes | bytearray, /) -> object:
        """Take the next part."""
        ...

    def hexdigest(self) -> str:
        """The digest of all parts, at least `DIGEST_BYTES` long."""
        ...


class Algorithm(NamedTuple):
    """One algorithm, for what is in memory as a whole and for what is not."""

    digest_of: DigestOf
    begin: Callable[[], Hash]


def _blake3_of(memory: memoryview) -> bytes:
    # BLAKE3 gives as many bytes as asked for; fewer are the beginning of more.
    return blake3(memory).digest(length=DIGEST_BYTES)


# By the names that config.yaml and the headers of maps have for them.
ALGORITHMS = {
    XXH3_128: Algorithm(xxhash.xxh3_128_digest, xxhash.xxh3_128),
    BLAKE3: Algorithm(_blake3_of, blake3),
}
