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
    """Digests bytes that come in parts; only the first `DIGEST_BYTES` of the digest are used."""

    def update(self, data: bytes | bytearray, /) -> object:
        """Take the next part."""
        ...

    def hexdigest(self) -> str:
        """The digest of all parts, at least `DIGEST_BYTES` long."""
        ...


class Algorithm(NamedTuple):
    """One algorithm: for bytes that are all in memory, and for bytes that come in parts."""

    digest_of: DigestOf
    begin: Callable[[], Hash]


def _blake3_of(memory: memoryview) -> bytes:
    # A BLAKE3 digest has any length; a shorter one is the beginning of a longer one.
    return blake3(memory).digest(length=DIGEST_BYTES)


# By their names in config.yaml and in the headers of maps.
ALGORITHMS = {
    XXH3_128: Algorithm(xxhash.xxh3_128_digest, xxhash.xxh3_128),
    BLAKE3: Algorithm(_blake3_of, blake3),
}
