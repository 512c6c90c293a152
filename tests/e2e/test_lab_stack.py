"""The whole lab: its command line, its guests, its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbd
import pytest
from pyVmomi import vim

from lab import processes
from lab.scenario import MIB, Content, DiskSpec, VmSpec, WriterSpec
from lab.stack import Lab, running_lab, status, up
from tests.rigs.lab.vcenter import Vcenter, disks, find, one_datacenter, until, vm, wait

_WRITTEN = VmSpec(
    "busy box",
    disks=(DiskSpec(8 * MIB, content=Content.PATTERN), DiskSpec(8 * MIB, content=Content.EMPTY)),
    writer=WriterSpec(rate_mib_per_second=4, seed=3),
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory: Path = tmp_path_factory.mktemp("lab")
    with running_lab(directory, one_datacenter(_WRITTEN, vm("idle"))) as lab:
        yield lab


@pytest.fixture
def vcenter(lab: Lab) -> Vcenter:
    return Vcenter(lab.directory, lab.info["vcenter"]["port"])


def test_lab_json_names_where_everything_is(lab: Lab) -> None:
    info = json.loads((lab.directory / "lab.json").read_text())
    assert info == lab.info
    assert (lab.directory / "lab.json").stat().st_mode & 0o077 == 0
    assert Path(info["vddk_path"], "lib64", "libvixDiskLib.so.8").exists()
    assert Path(info["cloudstack"]["pool_path"]).is_dir()
    assert Path(info["esxi"]["socket"]).is_socket()
    machine = lab.vm("busy box")
    assert [disk["key"] for disk in machine["disks"]] == [2000, 2001]
    assert machine["disks"][0]["export"] == f"{machine['moref']}/2000"


def test_a_running_guest_shows_up_as_changed_areas(lab: Lab, vcenter: Vcenter) -> None:
    with vcenter.client() as instance:
        machine = find(instance, "busy box")
        wait(machine.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=True)))
        first = wait(machine.CreateSnapshot_Task("one", "", False, False))
        ids = {disk.key: disk.backing.changeId for disk in disks(first)}
        wait(first.RemoveSnapshot_Task(removeChildren=False))
        log = Path(lab.vm("busy box")["write_log"])
        until(log.exists)
        before = len(log.read_text().splitlines())
        until(lambda: len(log.read_text().splitlines()) > before + 20)
        second = wait(machine.CreateSnapshot_Task("two", "", False, False))
        changed = machine.QueryChangedDiskAreas(second, 2000, 0, ids[2000])
        total = sum(area.length for area in changed.changedArea)
        assert 0 < total < 8 * MIB
        wait(second.RemoveSnapshot_Task(removeChildren=False))


def test_shutdown_lets_the_guest_finish_and_closes_the_disk(lab: Lab, vcenter: Vcenter) -> None:
    pid_file = lab.directory / "guests" / f"{lab.vm('busy box')['moref']}.pid"
    with vcenter.client() as instance:
        machine = find(instance, "busy box")
        assert processes.running_pid(pid_file) is not None
        machine.ShutdownGuest()
        until(lambda: machine.runtime.powerState == "poweredOff")
        assert processes.running_pid(pid_file) is None
        last = Path(lab.vm("busy box")["write_log"]).read_text().splitlines()[-1]
        assert json.loads(last)["final"] is True
        handle = nbd.NBD()
        handle.set_export_name(lab.vm("busy box")["disks"][0]["export"])
        handle.connect_unix(lab.info["esxi"]["socket"])
        with pytest.raises(nbd.Error):
            handle.pwrite(b"x" * 4096, 0)
        handle.shutdown()
        wait(machine.PowerOnVM_Task())
        until(lambda: processes.running_pid(pid_file) is not None)


def test_up_brings_back_what_died(lab: Lab) -> None:
    pid_file = lab.directory / "guests" / f"{lab.vm('busy box')['moref']}.pid"
    assert processes.end(lab.directory / "pids" / "esxi.pid", signal.SIGTERM, 15)
    until(lambda: processes.running_pid(pid_file) is None)
    assert up(lab.directory).info["vcenter"] == lab.info["vcenter"]
    until(lambda: processes.running_pid(pid_file) is not None)
    assert all(status(lab.directory)["processes"].values())


def test_files_of_a_snapshot_that_vcenter_lost_need_consolidation(
    lab: Lab, vcenter: Vcenter
) -> None:
    moref = lab.vm("busy box")["moref"]
    # As if the simulator had died between the host's work and its own record of it.
    lab.esxi.call("create_snapshot", vm=moref, snapshot="snapshot-900", keys=[2000, 2001])
    assert processes.end(lab.directory / "pids" / "vcenter.pid", signal.SIGKILL, 15)
    up(lab.directory)
    with vcenter.client() as instance:
        machine = find(instance, "busy box")
        assert machine.snapshot is None
        assert machine.runtime.consolidationNeeded is True
        wait(machine.ConsolidateVMDisks_Task())
        assert machine.runtime.consolidationNeeded is False
    assert all(not disk["snapshots"] for disk in lab.esxi.call("disks")["disks"])


def test_status_counts(lab: Lab) -> None:
    state = status(lab.directory)
    assert all(state["processes"].values())
    assert state["vcenter"]["vms"] == 2


def test_the_guard_ends_a_lab_whose_owner_dies(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from lab.stack import running_lab\n"
        "from tests.rigs.lab.vcenter import one_datacenter, vm\n"
        f"with running_lab(Path({str(tmp_path)!r}), one_datacenter(vm('one'))):\n"
        "    print('up', flush=True); time.sleep(60)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"up\n"
    pids = [tmp_path / "pids" / f"{part}.pid" for part in ("esxi", "vcenter", "cloudstack")]
    assert all(processes.running_pid(pid) for pid in pids)
    os.kill(owner.pid, signal.SIGKILL)
    owner.communicate()
    until(lambda: not any(processes.running_pid(pid) for pid in pids))


def test_the_command_line_starts_breaks_and_ends_a_lab(tmp_path: Path) -> None:
    def lab(*words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "lab", *words],
            env={**os.environ, "V2C_LAB_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    assert "v2c lab up" in lab("status", code=1)
    try:
        assert "https://127.0.0.1:" in lab("up", "--scenario", "small")
        assert "another directory" in lab("up", "--scenario", "demo", code=1)
        lab("fault", "set", "vcenter", "method=CreateSnapshot", "fault=FileFault", "count=3")
        assert "CreateSnapshot_Task fault=FileFault" in lab("fault", "list")
        assert "did you mean" in lab("fault", "set", "vcenter", "method=CreateSnapsot", code=1)
        lab("fault", "clear")
        assert lab("fault", "list") == ""
        assert "task_seconds" in lab("set", "taskseconds=1", code=1)
        state = json.loads(lab("status", "--json"))
        assert state["status"]["vcenter"]["vms"] == len(state["vms"]) == 15
    finally:
        ended = lab("down")
    assert "esxi" in ended
    assert "nothing was running" in lab("down")
    assert "not running" in lab("status", code=3)
    began = time.monotonic()
    try:
        assert "https://127.0.0.1:" in lab("up")
        assert time.monotonic() - began < 15
    finally:
        lab("down")
