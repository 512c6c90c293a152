"""The algorithms of digests, and that each chunk map's header names the one it uses."""

import json
import os
from pathlib import Path
from typing import get_args

import pytest
import xxhash

from services.config.config_model import Disk
from services.disk_agent.chunk_map.chunk_map import ChunkMap, Header, Kind, PassKey
from services.disk_agent.chunk_map.digests import ALGORITHMS, BLAKE3, DIGEST_BYTES, XXH3_128
from services.disk_agent.chunk_map.file import write_header
from services.disk_agent.transfer_failures import MapUnusable

MIB = 1 << 20
# The digests of no bytes, from `xxhsum -H2` and `b3sum --length 16`: they must not change, because
# maps are used by later versions.
OF_NOTHING = {
    XXH3_128: "99aa06d3014798d86001c324468d497f",
    BLAKE3: "af1349b9f5f9a1a6a0404dea36dcc949",
}


def test_the_config_offers_every_algorithm() -> None:
    assert set(get_args(Disk.model_fields["digest"].annotation)) == set(ALGORITHMS)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_digest_is_the_same_in_one_piece_and_in_parts(name: str) -> None:
    algorithm = ALGORITHMS[name]
    assert algorithm.digest_of(memoryview(b"")).hex() == OF_NOTHING[name]
    state = algorithm.begin()
    state.update(b"of two ")
    state.update(b"parts")
    whole = algorithm.digest_of(memoryview(b"of two parts"))
    assert len(whole) == DIGEST_BYTES
    assert state.hexdigest().startswith(whole.hex())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_map_keeps_its_algorithm(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.map"
    with ChunkMap.create(path, "d", 10 * MIB, MIB, name) as chunk_map:
        chunk_map.begin_pass(PassKey("0", "s0", "full"))
        chunk_map.put(0, 10, Kind.ZERO)
        chunk_map.complete_pass()
        digest = chunk_map.digest()
    with ChunkMap.open(path) as again:
        assert again.header.digest == name
        assert again.digest_of is ALGORITHMS[name].digest_of
        assert again.digest() == digest
        assert len(digest) == 2 * DIGEST_BYTES
        assert digest == ALGORITHMS[name].digest_of(memoryview((b"\1" + bytes(16)) * 10)).hex()


def test_a_map_without_an_algorithm_in_its_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.map"
    ChunkMap.create(path, "d", 10 * MIB, MIB).close()
    page = path.read_bytes()[16:4096]
    magic, length = page[:8], int.from_bytes(page[8:12], "little")
    fields = json.loads(page[12 : 12 + length])
    del fields["digest"]
    # Such maps have another field that is no longer used.
    text = json.dumps({**fields, "complete_snapshot": "snapshot-7"}).encode()
    old = (magic + len(text).to_bytes(4, "little") + text).ljust(len(page), b"\0")
    path.write_bytes(xxhash.xxh3_128_digest(old) + old)
    with ChunkMap.open(path) as again:
        assert again.digest_of is ALGORITHMS[XXH3_128].digest_of


def test_a_map_of_a_version_with_more_algorithms_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.map"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    write_header(fd, path, Header(1, "d", 10 * MIB, MIB, digest="other"))
    os.close(fd)
    with pytest.raises(MapUnusable, match="'other'"):
        ChunkMap.open(path)
