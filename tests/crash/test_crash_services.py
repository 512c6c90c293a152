"""SIGKILL to every process of a stack in the middle of a migration; it arrives all the same.

What is killed is started again by its supervisor, or by the operator with the same command.
Nothing of what was killed stays: no snapshot, no orphan, no lock on an image.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.rigs.stack.checks import assert_migrated, data_path_of, eventually, processes_of
from tests.rigs.stack.client import Client, client_of, quick
from tests.rigs.stack.faults import in_mid_copy, slow_reads
from tests.rigs.stack.scenario import machine, scenario
from tests.rigs.stack.site import Site, running_site, serving
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

AGENTS = ("vmware_agent", "disk_agent", "cloudstack_agent")
BACK_SECONDS = 60.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    names = ("base", "delta", "final", "imported", "agents", "worker", "whole")
    contents = scenario(*(machine(name, 8, 8) for name in names))
    directory = tmp_path_factory.mktemp("crash")
    with running_site(directory, contents, migration={"parallel_vms": 10}) as running:
        yield running


@pytest.fixture(scope="module")
def client(site: Site) -> Iterator[Client]:
    """A stack that nobody restarts but its own supervisor."""
    with serving(site), client_of(site) as connected:
        yield connected


def _pid_of(site: Site, module: str) -> int:
    found = processes_of(site, only=(f"-m {module} ",))
    assert len(found) == 1, found
    return next(iter(found))


def _kill(site: Site, *modules: str) -> None:
    pids = [_pid_of(site, module) for module in modules]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: [pid for pid in pids if pid in processes_of(site)])


def _assert_arrived(site: Site, client: Client, before: pb.Migration) -> None:
    """The same migration ends, complete, with nothing left of what was killed."""
    done = client.wait_done(before.vm_name, seconds=90)
    assert done.id == before.id
    assert_migrated(site, done)
    images = [disk.target_path.rpartition("/")[2] for disk in done.disks]
    eventually(
        lambda: [
            line for line in data_path_of(site).values() if any(name in line for name in images)
        ]
    )


def test_the_orchestrator_in_the_base_copy(site: Site, client: Client) -> None:
    with slow_reads(site.lab, "base", 500):
        client.start("base", readers=1)
        before = client.wait("base", in_mid_copy)
        _kill(site, "services.orchestrator")
    client.finalize("base")
    _assert_arrived(site, client, before)
    # The copy went on; it did not begin again.
    assert [p.kind for p in client.get("base").passes].count("base") == 1


def test_the_orchestrator_in_a_delta_pass(site: Site, client: Client) -> None:
    client.start("delta")
    client.wait_stage("delta", pb.STAGE_DELTA)
    with slow_reads(site.lab, "delta", 500):
        before = client.wait("delta", _in_a_delta_pass)
        _kill(site, "services.orchestrator")
    client.finalize("delta")
    _assert_arrived(site, client, before)


def test_the_orchestrator_in_the_final_sync(site: Site, client: Client) -> None:
    client.start("final", delta_interval=300)
    client.wait("final", lambda now: now.state == pb.STATE_WAITING)
    with slow_reads(site.lab, "final", 500):
        client.finalize("final")
        before = client.wait("final", _in_the_final_pass)
        _kill(site, "services.orchestrator")
    _assert_arrived(site, client, before)


def test_the_orchestrator_in_the_import(site: Site, client: Client) -> None:
    site.lab.cloudstack.call("fault", command="importVm", kind="job_delay", seconds=3)
    client.start("imported", delta_interval=300, start_vm_after_import=True)
    client.finalize("imported")
    before = client.wait_stage("imported", pb.STAGE_IMPORT_ROOT_DISK)
    eventually(lambda: site.lab.cloudstack.call("faults")["faults"])
    _kill(site, "services.orchestrator")
    _assert_arrived(site, client, before)
    machines = site.lab.cloudstack.call("state")["tables"]["virtualmachine"].values()
    assert [m["displayname"] for m in machines].count("imported") == 1


def test_all_agents_at_once_in_the_base_copy(site: Site, client: Client) -> None:
    with slow_reads(site.lab, "agents", 500):
        client.start("agents", readers=1)
        before = client.wait("agents", in_mid_copy)
        assert data_path_of(site)
        _kill(site, *(f"services.{agent}" for agent in AGENTS), "gateway")
        # What the disk agent had started ends with it, at once.
        eventually(lambda: data_path_of(site), seconds=5)
    client.finalize("agents")
    _assert_arrived(site, client, before)
    eventually(lambda: {"services.disk_agent", "gateway"} - _modules(site), seconds=BACK_SECONDS)


def test_a_worker_in_the_base_copy(site: Site, client: Client) -> None:
    with slow_reads(site.lab, "worker", 500):
        client.start("worker", readers=1)
        before = client.wait("worker", in_mid_copy)
        workers = processes_of(site, only=("services.disk_agent.worker",))
        assert workers
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
    client.finalize("worker")
    _assert_arrived(site, client, before)


def _modules(site: Site) -> set[str]:
    lines = processes_of(site).values()
    return {line.partition(" -m ")[2].partition(" ")[0] for line in lines}


def _in_a_delta_pass(now: pb.Migration) -> bool:
    return (
        now.stage == pb.STAGE_DELTA
        and now.state == pb.STATE_RUNNING
        and any(disk.done_bytes < disk.total_bytes for disk in now.disks)
    )


def _in_the_final_pass(now: pb.Migration) -> bool:
    return now.stage == pb.STAGE_FINAL_SYNC and any(
        p.kind == "final" and not p.HasField("end_time") for p in now.passes
    )


def test_everything_of_a_run_at_once_then_the_same_command(site: Site) -> None:
    own = site.variant("whole")
    spec = own.spec_file("whole", quick("whole", finalize_at="2020-02-02T02:02:02", readers=1))
    with ExitStack() as stack:
        stack.enter_context(slow_reads(own.lab, "whole", 500))
        run = own.run(spec)
        run.wait_for("whole: base_copy")
        with client_of(own) as client:
            before = client.wait("whole", in_mid_copy)
        for pid in processes_of(own):
            with_no_mercy(pid)
        assert run.wait() == -signal.SIGKILL
        eventually(lambda: processes_of(own), seconds=5)

    again = own.run(spec)
    again.wait_for("whole: import_root_disk", seconds=60)
    with client_of(own) as client:
        latest = client.get("whole")
        while latest.state != pb.STATE_DONE and again.running:
            time.sleep(0.05)
            latest = client.get("whole")
    assert again.wait() == 0, again.out
    assert latest.id == before.id
    eventually(lambda: processes_of(own))


def with_no_mercy(pid: int) -> None:
    """SIGKILL; it may have ended with its parent."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
