"""The expert commands on a real image: VDDK to QCOW2 by hand, then the changes."""

import json
from typing import Any

import pytest

from tests.rigs.disk.expert import SIZE, Expert
from tests.rigs.lab.esxi import BLOCK


def test_base_copy_then_delta_sync_equal_the_source(expert: Expert) -> None:
    first = expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])[2000]
    assert first.change_id is not None
    copied = expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1")
    assert copied.returncode == 0, copied.stderr
    assert expert.image_content() == expert.snapshot_content("snapshot-1")

    expert.write(6 * BLOCK, b"c")
    expert.write(40 * BLOCK, b"d")
    expert.esxi.client.create_snapshot("vm-1", "snapshot-2", [2000])
    changed = expert.esxi.client.changed_areas("vm-1", "snapshot-2", 2000, first.change_id, 0, 100)
    ranges = [{"start": start, "length": length} for start, length in changed.areas]
    (expert.folder / "ranges.json").write_text(json.dumps(ranges))
    synced = expert.v2c(
        "delta-sync", "delta_sync", snapshot_moref="snapshot-2", ranges_file="ranges.json"
    )

    assert synced.returncode == 0, synced.stderr
    assert expert.image_content() == expert.snapshot_content("snapshot-2")
    assert "131 kB read" in synced.stdout


def test_corrected_ranges_of_the_same_snapshot_are_copied(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1")
    expert.write(40 * BLOCK, b"d")
    expert.esxi.client.create_snapshot("vm-1", "snapshot-2", [2000])
    for start in (0, 40 * BLOCK):
        (expert.folder / "ranges.json").write_text(json.dumps([[start, BLOCK]]))
        synced = expert.v2c(
            "delta-sync", "delta_sync", snapshot_moref="snapshot-2", ranges_file="ranges.json"
        )
        assert synced.returncode == 0, synced.stderr

    assert expert.image_content() == expert.snapshot_content("snapshot-2")


def test_for_scripts_each_line_is_an_object(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    copied = expert.v2c("base-copy", "base_copy", "--json", snapshot_moref="snapshot-1")
    assert copied.returncode == 0, copied.stderr
    *events, end = [json.loads(line) for line in copied.stdout.splitlines()]
    assert {event["event"] for event in events} <= {"progress", "notice"}
    assert (end["event"], end["failure"]) == ("end", None)
    assert end["target_qcow2"] == str(expert.target)
    assert end["progress"]["done_bytes"] == SIZE


def test_a_wrong_password_is_one_paragraph_without_it(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    expert.vddk["password"] = "hunter2"

    refused = expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1")

    assert refused.returncode == 1
    assert "password" in refused.stderr.splitlines()[-1]
    assert "hunter2" not in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_password_that_is_none_does_not_hang(expert: Expert) -> None:
    expert.esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
    expert.vddk["password"] = "x" * 100_000
    refused = expert.v2c("base-copy", "base_copy", snapshot_moref="snapshot-1")
    assert refused.returncode == 1
    assert "the password has more than 4096 bytes" in refused.stderr


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ({"snapshot_moref": "s", "ranges_file": "r", "target_qcow2": "b.qcow2"}, "base-copy first"),
        ({"snapshot_moref": "s"}, "delta_sync.ranges_file: is required"),
        ({"snapshot_moref": "s", "ranges_file": "r", "chunk": 1}, "Did you mean chunk_mb?"),
    ],
)
def test_mistakes_name_the_field(expert: Expert, job: dict[str, Any], expected: str) -> None:
    refused = expert.v2c("delta-sync", "delta_sync", **job)

    assert refused.returncode in {1, 2}
    assert expected in refused.stderr


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ({"target_qcow2": "gone.qcow2"}, "gone.qcow2 points to nothing"),
        ({"target_qcow2": "folder.qcow2"}, "folder.qcow2 is no file"),
        ({"target_qcow2": "nowhere/a.qcow2"}, "there is no folder"),
        ({"target_qcow2": f"{'d' * 300}/a.qcow2"}, "File name too long"),
        ({"disk_path": "a\0b"}, "base_copy.disk_path"),
        ({"snapshot_moref": ""}, "base_copy.snapshot_moref"),
    ],
)
def test_what_can_be_no_copy_is_reported_in_a_line(
    expert: Expert, job: dict[str, Any], expected: str
) -> None:
    (expert.folder / "gone.qcow2").symlink_to(expert.folder / "missing" / "a.qcow2")
    (expert.folder / "folder.qcow2").mkdir()

    refused = expert.v2c("base-copy", "base_copy", **{"snapshot_moref": "s", **job})

    assert refused.returncode in {1, 2}
    assert expected in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ('[{"start": 0, "start": 512, "length": 512}]', "a key comes twice"),
        ('[{"start": 0}]', "range 1 is no range"),
    ],
)
def test_ranges_are_read_to_the_letter(expert: Expert, ranges: str, expected: str) -> None:
    expert.target.touch()
    (expert.folder / "r.json").write_text(ranges)
    refused = expert.v2c("delta-sync", "delta_sync", snapshot_moref="s", ranges_file="r.json")
    assert refused.returncode == 1
    assert expected in refused.stderr


def test_without_the_variable_they_only_name_it(expert: Expert) -> None:
    refused = expert.v2c("base-copy", "base_copy", enabled=False, snapshot_moref="s")

    assert refused.returncode == 2
    assert "Set V2C_ENABLE_EXPERT_COMMANDS=1" in refused.stderr
    assert not expert.target.exists()
