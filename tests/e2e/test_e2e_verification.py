"""Verification: what the target's storage changed behind everybody's back stops the migration.

Retry then repairs the image from the source, and the migration continues.
"""

from __future__ import annotations

import re
import subprocess

from tests.rigs.stack.checks import assert_migrated, vcenter_vm
from tests.rigs.stack.client import Client, image_paths, quick
from tests.rigs.stack.site import Site
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

_MIB = 1 << 20


def _flipped(client: Client, name: str) -> pb.Migration:
    """A migration whose second image was changed before the cutover; it has failed."""
    client.submit(quick(name, delta_interval=300))
    waiting = client.wait(
        name, lambda now: now.stage == pb.STAGE_DELTA and now.state == pb.STATE_WAITING
    )
    # All over one chunk, as the guest's last writes hide some; more chunks would be another image.
    offsets = (7 * _MIB + at * _MIB // 16 + 7 * 512 for at in range(16))
    flips = [word for offset in offsets for word in ("-c", f"write -P 0xa5 {offset} 512")]
    image = image_paths(waiting)[1]
    subprocess.run(["qemu-io", *flips, str(image)], check=True, capture_output=True)
    client.finalize(name)
    return client.wait_state(name, pb.STATE_FAILED)


def test_bytes_that_changed_on_the_target_are_found_and_named(site: Site, client: Client) -> None:
    failed = _flipped(client, "flipped")

    assert failed.stage == pb.STAGE_VERIFYING
    assert failed.error.reason == "CONTENT_MISMATCH"
    disk = f"{failed.vm_moref}/{failed.disks[1].key}"
    where = rf"offset \d+, {_MIB} bytes: expected \w+, found [0-9a-f]{{32}}"
    expected = rf"disk {disk}: \d of its chunks on the target differ: {where}"
    assert re.search(expected, failed.error.message), failed.error.message
    assert "images.verified" not in client.events("flipped")
    assert vcenter_vm(site.lab, "flipped")["snapshots"] == []

    client.rollback("flipped")
    client.wait_state("flipped", pb.STATE_ROLLED_BACK)
    assert vcenter_vm(site.lab, "flipped")["power"] == "poweredOn"


def test_retry_repairs_the_image_from_the_source(site: Site, client: Client) -> None:
    _flipped(client, "repaired")

    client.retry("repaired")
    done = client.wait_done("repaired")

    assert_migrated(site, done)
    assert "images.repaired" in client.events("repaired")
