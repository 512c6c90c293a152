"""Temporary folders of commands: whose are removed, and what is killed for it."""

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from cli.expert.scratch import scratch_folder
from services.disk_agent.transfers.supervisor import kill_processes_below


def test_a_folder_that_another_command_uses_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed: list[Path] = []
    with scratch_folder(killed.append) as first, scratch_folder(killed.append) as second:
        assert first.is_dir()
        assert second.is_dir()
    assert killed == []


def test_folders_of_others_or_just_made_are_left_and_old_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fresh, old, foreign, link = (tmp_path / f"v2c-cli-{name}" for name in "abcd")
    for folder in (fresh, old, foreign, link):
        folder.mkdir()
    (foreign / "cli.lock").touch()
    os.chown(foreign, 65534, 65534)
    (link / "cli.lock").symlink_to(foreign / "cli.lock")
    os.utime(old, (0, 0))
    with scratch_folder(lambda _: None):
        pass
    assert {each.name[-1] for each in tmp_path.iterdir()} == {"a", "c", "d"}


def test_only_servers_of_this_user_below_the_folder_are_killed(tmp_path: Path) -> None:
    reading = tmp_path / "log"
    reading.touch()
    bystander = subprocess.Popen(["tail", "-f", str(reading)])
    serving = ["nbdkit", "-f", f"--unix={tmp_path}/s.sock", "null", "1M"]
    server = subprocess.Popen(serving)
    try:
        while not (tmp_path / "s.sock").exists():
            time.sleep(0.01)
        assert kill_processes_below(tmp_path / "s") == 0
        assert kill_processes_below(tmp_path) == 1
        assert server.wait(10) == -signal.SIGKILL
        assert bystander.poll() is None
    finally:
        for process in (bystander, server):
            process.kill()
            process.wait()
