"""Which images the expert commands write to, and which they leave alone."""

import json
import tempfile
from pathlib import Path
from typing import Any

from cli.commands.expert import _remove_unused
from lab.esxi.client import DiskFault
from tests.rigs.disk.expert import SIZE, Expert, source_served
from tests.rigs.lab.esxi import BLOCK


def test_another_disk_is_not_copied_over_an_image(expert: Expert) -> None:
    expert.esxi.client.add_disk("vm-1", 2001, "[ds] a/a_1.vmdk", SIZE)
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000, 2001])
    expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1")

    refused = expert.v2c(
        "base-copy", "base_copy", snapshot_moref="snapshot-1", disk_path="[ds] a/a_1.vmdk"
    )

    assert refused.returncode == 1
    assert "the image holds the disk vm-1:[ds] a/a.vmdk, not" in refused.stderr
    assert expert.image_content() == expert.snapshot_content("snapshot-1")


def test_a_wrong_size_leaves_no_image_of_that_size(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    spec: dict[str, Any] = {"snapshot_moref": "snapshot-1"}

    refused = expert.v2c("base-copy", "base_copy", **spec, disk_size_bytes=2 * SIZE)

    assert refused.returncode == 1
    assert "Correct disk_size_bytes" in refused.stderr
    assert list(expert.folder.glob("*.qcow2*")) == []
    assert expert.v2c("base-copy", "base_copy", **spec).returncode == 0
    again = expert.v2c("base-copy", "base_copy", **spec, disk_size_bytes=2 * SIZE)
    assert again.returncode == 1
    assert expert.image_content() == expert.snapshot_content("snapshot-1")


def test_an_image_of_somebody_else_is_not_written_over(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    before = expert.foreign_image()

    refused = expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1")

    assert refused.returncode == 1
    assert "exists, and no chunk map says what it holds" in refused.stderr
    assert expert.target.read_bytes() == before
    # An empty one is what an attempt leaves that was killed early.
    expert.empty_image()
    assert expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1").returncode == 0


def test_an_image_at_the_path_of_the_copy_is_not_taken_for_it(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    assert expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1").returncode == 0
    before = expert.foreign_image()

    refused = expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1")

    assert refused.returncode == 1
    assert "does not hold what its chunk map records" in refused.stderr
    assert "Put the image back, or" in refused.stderr
    assert expert.target.read_bytes() == before
    # An empty one is filled; an area of changes alone would leave holes.
    expert.empty_image()
    (expert.folder / "r.json").write_text(json.dumps([[0, BLOCK]]))
    delta: dict[str, Any] = {"snapshot_moref": "snapshot-1", "ranges_file": "r.json"}
    refused = expert.v2c("delta-sync", "delta_sync", **delta)
    assert refused.returncode == 1
    assert "the image is empty" in refused.stderr
    assert expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1").returncode == 0
    assert expert.image_content() == expert.snapshot_content("snapshot-1")


def test_a_map_without_records_is_no_evidence_for_an_image(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    assert expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1").returncode == 0
    chunk_map = expert.folder / ".a.qcow2.map"
    chunk_map.write_bytes(bytes(chunk_map.stat().st_size))
    before = expert.target.read_bytes()

    refused = expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1")

    assert refused.returncode == 1
    assert "no chunk map says what it holds" in refused.stderr
    assert expert.target.read_bytes() == before


def test_the_image_that_another_command_fills_is_left_alone(expert: Expert) -> None:
    """The second command fails with a message and removes nothing."""
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    slow = DiskFault(kind="latency", vm="vm-1", key=2000, count=0, milliseconds=5000)
    expert.esxi.client.inject_fault(slow)
    spec: dict[str, Any] = {"snapshot_moref": "snapshot-1"}
    with (
        tempfile.TemporaryDirectory(prefix="v2c-") as temporary,
        expert.started("base-copy", "base_copy", Path(temporary), **spec) as first,
    ):
        source_served(Path(temporary), first)
        second = expert.v2c("base-copy", "base_copy", **spec)
        assert second.returncode == 1
        assert "is in use by another process" in second.stderr
        made = expert.target.stat()
        _remove_unused(expert.target, made)
        assert expert.target.exists()
        expert.esxi.client.clear_faults()
        first.communicate(timeout=60)
    assert first.returncode == 0
    assert expert.image_content() == expert.snapshot_content("snapshot-1")
