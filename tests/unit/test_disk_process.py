"""Process groups: what counts as running."""

import os
import signal
import subprocess

from services.disk_agent.host.process import group_is_alive, stop


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


def test_a_server_that_does_not_listen_is_killed() -> None:
    deaf = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"]
    with subprocess.Popen(deaf, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        stop(child, 0.1)
        assert child.returncode == -signal.SIGKILL


def test_a_server_that_has_ended_is_left_alone() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    stop(child, 5.0)
    assert child.returncode == 0
