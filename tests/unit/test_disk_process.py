"""Processes: which count as running, which are ended, and which modules the reaper loads."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.disk_agent.host.process import stop
from services.disk_agent.host.qemu_lock import reports_lock
from services.kit.processes.control import descendants, find_processes, group_is_alive, is_alive


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        assert group_is_alive(child.pid)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        os.killpg(child.pid, 0)  # the kernel still knows the group
        assert not group_is_alive(child.pid)
    finally:
        child.kill()
        child.wait()
    assert not group_is_alive(child.pid)


def test_descendants_are_found_and_their_end_is_seen() -> None:
    child = subprocess.Popen(["sh", "-c", "sleep 60 & echo; wait"], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        (below,) = descendants(child.pid)
        assert child.pid in descendants(os.getpid())
        assert is_alive(child.pid)
        assert is_alive(below)
    finally:
        for pid in [child.pid, *descendants(child.pid)]:
            os.kill(pid, signal.SIGKILL)
        child.communicate()
    assert not is_alive(child.pid)


def test_a_process_of_any_name_is_looked_at() -> None:
    """The kernel cuts names after 15 bytes, within a character too."""
    name = "/proc/self/comm"
    script = (
        f"open({name!r}, 'wb').write(b'datensicherung\\xc3\\xbc) Z 1'); print(flush=True); input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert Path(f"/proc/{child.pid}/comm").read_bytes() == b"datensicherung\xc3\n"
        assert is_alive(child.pid)
        assert group_is_alive(child.pid)
        assert child.pid in descendants(os.getpid())
    finally:
        child.kill()
        child.communicate()


def test_processes_are_found_by_their_files_and_never_this_one() -> None:
    mark = b"v2c-test-mark-7731"
    child = subprocess.Popen(["sleep", "60"], env={"MARK": mark.decode()})
    try:

        def marked(process: Path) -> bool:
            return mark in (process / "environ").read_bytes()

        # Until exec has run, the child has this process's environment.
        while not find_processes(marked):
            assert child.poll() is None
        assert find_processes(marked) == {child.pid}
        assert os.getpid() not in find_processes(lambda process: True)
    finally:
        child.kill()
        child.wait()


def test_the_reaper_loads_nothing_but_the_standard_library() -> None:
    """The reaper starts during a migration's downtime, so it must start fast."""
    code = (
        "import sys; before = set(sys.modules); import services.disk_agent.conversions.reaper; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = done.stdout.split()
    ours = {name for name in loaded if name.startswith("services")}
    assert ours == {
        "services",
        "services.disk_agent",
        "services.disk_agent.conversions",
        "services.disk_agent.conversions.reaper",
        "services.kit",
        "services.kit.processes",
        "services.kit.processes.control",
    }
    foreign = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names
    assert foreign == {"services"}
    assert not {"asyncio", "dataclasses", "json"} & set(loaded)


@pytest.mark.parametrize(
    ("messages", "locked"),
    [
        ("qemu-img: Could not open 'a': Failed to get \"write\" lock", True),
        ('Failed to get shared "consistent read" lock', True),
        ('qemu-img: Failed to get shared "resize" lock\nIs another process using it?', True),
        ("qemu-nbd: Could not open 'a lock': No such file or directory", False),
    ],
)
def test_a_lock_is_recognised_by_qemus_message(messages: str, locked: bool) -> None:
    assert reports_lock(messages) is locked


def test_a_server_that_does_not_listen_is_killed() -> None:
    stubborn = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"]
    with subprocess.Popen(stubborn, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        stop(child, 0.1)
        assert child.returncode == -signal.SIGKILL


def test_a_server_that_has_ended_is_left_alone() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    stop(child, 5.0)
    assert child.returncode == 0
