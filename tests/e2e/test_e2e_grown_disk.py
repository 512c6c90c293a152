"""An administrator makes a disk larger while its machine is being migrated."""

from __future__ import annotations

import json
import subprocess

from tests.rigs.stack.checks import assert_migrated
from tests.rigs.stack.client import Client, image_paths, quick
from tests.rigs.stack.site import Site
from tests.rigs.stack.vcenter import grow_disk
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

_MIB = 1 << 20


def test_a_disk_that_grew_is_migrated_with_its_new_end(site: Site, client: Client) -> None:
    client.submit(quick("grown", delta_interval=300))
    client.wait("grown", lambda now: now.stage == pb.STAGE_DELTA and now.state == pb.STATE_WAITING)
    grow_disk(site.lab, "grown", "Hard disk 2", 5)

    client.finalize("grown", now=False)
    done = client.wait_done("grown")

    assert "disk.grown" in client.events("grown")
    assert [disk.capacity_bytes for disk in done.disks] == [8 * _MIB, 13 * _MIB]
    info = ["qemu-img", "info", "--output=json", str(image_paths(done)[1])]
    found = json.loads(subprocess.run(info, capture_output=True, check=True).stdout)
    assert found["virtual-size"] == 13 * _MIB
    assert_migrated(site, done)
