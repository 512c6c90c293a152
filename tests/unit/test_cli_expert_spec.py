"""The reference tool's tuning keys in an expert spec, and what they mean here."""

from pathlib import Path
from typing import Any

import pytest

from cli.errors import CommandError
from cli.expert.spec import BaseCopySpec, load_expert_spec, ranges_from
from services.config import ConfigError

SPEC = """\
vddk: {libdir: /vddk, server: vc, user: u, vm_moref: vm-1}
base_copy:
  snapshot_moref: snapshot-1
  disk_path: "[ds] a/a.vmdk"
  target_qcow2: /a.qcow2
  disk_size_bytes: 1048576
"""


def base_copy(folder: Path, tuning: str) -> BaseCopySpec:
    path = folder / "expert.yaml"
    path.write_text(SPEC + "".join(f"  {line}\n" for line in tuning.split(", ") if line))
    found = load_expert_spec(path).base_copy
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("tuning", "requests", "chunk_mb"),
    [
        ("", 16, 1),
        ("readers: 4, queue_depth: 8", 8, 1),
        ("readers: 24", 24, 1),
        ("min_chunk_mb: 1, max_chunk_mb: 16", 16, 1),
        ("min_chunk_mb: 3, max_chunk_mb: 4", 16, 4),
        ("min_chunk_mb: 8", 16, 8),
        ("max_chunk_mb: 1", 16, 1),
    ],
)
def test_tuning_maps_onto_one_connection(
    tmp_path: Path, tuning: str, requests: int, chunk_mb: int
) -> None:
    job = base_copy(tmp_path, tuning)
    assert (job.requests_in_flight, job.chunk_mb) == (requests, chunk_mb)


def test_limits_without_a_chunk_size_between_them_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no power of two lies between min_chunk_mb") as caught:
        base_copy(tmp_path, "min_chunk_mb: 5, max_chunk_mb: 7")
    assert caught.value.problems[0].field == "base_copy.max_chunk_mb"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"12": 1}, "no list of ranges"),
        (["12"], "range 1 is no range"),
        ([[0, 512], {"start": 0, "lenght": 512}], "range 2 is no range"),
        ([[0.5, 512]], "range 1 is not in whole sectors"),
        ([[0, float("inf")]], "range 1 is not in whole sectors"),
        ([[False, 512]], "range 1 is not in whole sectors"),
        ([[0, 7]], "range 1 is not in whole sectors"),
    ],
)
def test_what_is_no_range_is_named(document: Any, expected: str) -> None:
    with pytest.raises(CommandError, match=expected):
        list(ranges_from(document, Path("ranges.json")))


def test_ranges_are_pairs_or_mappings_of_numbers_or_their_text() -> None:
    document = [[0, 512], {"start": "1024", "length": 512, "type": "data"}]
    assert list(ranges_from(document, Path("r"))) == [(0, 512), (1024, 512)]
