"""What must hold after a migration, or after its end in any other way."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.demo import proof
from lab.demo.watcher import target_paths
from lab.stack import Lab
from tests.rigs.stack.site import MARK, Site
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

_DATA_PATH = (
    "nbdkit",
    "qemu-nbd",
    "services.disk_agent.worker",
    "services.disk_agent.conversions.reaper",
)


def assert_identical(lab: Lab, migration: pb.Migration) -> None:
    """Every image equals its source disk, what the guest wrote while it shut down included."""
    vm = lab.vm(migration.vm_moref)
    exports = {disk["key"]: disk["export"] for disk in vm["disks"]}
    paths = target_paths(migration)
    assert set(paths) == set(exports)
    for key, path in paths.items():
        with (
            proof.source_disk(Path(lab.info["esxi"]["socket"]), exports[key]) as source,
            proof.image(path) as target,
        ):
            found = proof.compare(source, target)
            assert found.identical, f"{path} differs at {found.differs_at}"
            words = proof.last_writes(Path(vm["write_log"]), exports[key], target)
            assert words.found == words.logged > 0, f"{path} has {words} of the guest's last writes"


def assert_migrated(site: Site, migration: pb.Migration) -> None:
    """Done, identical, the source off and without snapshot, no debts, images closed."""
    assert migration.state == pb.STATE_DONE, migration
    assert_identical(site.lab, migration)
    source = vcenter_vm(site.lab, migration.vm_moref)
    assert source["power"] == "poweredOff"
    assert source["snapshots"] == []
    assert migration.open_debts == 0
    assert migration.target_vm_id
    for path in target_paths(migration).values():
        assert_importable(path)


def assert_importable(path: Path) -> None:
    """No lock is held, no backing file: what CloudStack's importer looks at."""
    command = ["qemu-img", "info", "--output=json", "-f", "qcow2", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "backing-filename" not in json.loads(done.stdout)


def vcenter_vm(lab: Lab, vm: str) -> dict[str, object]:
    """A machine as the vCenter simulator has it."""
    return lab.vcenter.call("vm", vm=vm)


def snapshots(lab: Lab) -> int:
    """How many snapshots all machines have together."""
    return int(lab.vcenter.call("status")["snapshots"])


def cloudstack_rows(lab: Lab, table: str) -> list[dict[str, Any]]:
    """All rows that the CloudStack simulator has of a kind."""
    rows: dict[str, dict[str, Any]] = lab.cloudstack.call("state")["tables"].get(table, {})
    return list(rows.values())


def processes_of(site: Site, *, only: tuple[str, ...] = ()) -> dict[int, str]:
    """Command lines of what the product started for a site, by pid.

    ``only`` leaves those with one of these words in them. A parent's end hides nothing: they are
    found by what they inherited.
    """
    mark = f"{MARK}={site.control_dir}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if mark not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # It has ended meanwhile.
            continue
        if not only or any(word in line for word in only):
            found[int(entry.name)] = line
    return found


def data_path_of(site: Site) -> dict[int, str]:
    """Workers, nbdkit, qemu-nbd and conversions of a site's disk agent, by pid."""
    return processes_of(site, only=_DATA_PATH)


def eventually(check: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until ``check`` returns something empty; fails with what it returned last."""
    deadline = time.monotonic() + seconds
    while left := check():
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def assert_nothing_left(site: Site) -> None:
    """No snapshot, image, process or socket: as if nothing had been tried."""
    assert snapshots(site.lab) == 0
    assert list(site.pool.glob("*.qcow2*")) == []
    eventually(lambda: processes_of(site))
    assert [path.name for path in site.control_dir.rglob("*.sock")] == []
