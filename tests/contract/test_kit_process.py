import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.kit.channel import stream
from services.kit.errors import RemoteError
from services.kit.processes.service import (
    Readiness,
    ReadyFileError,
    read_ready_file,
    write_ready_file,
)
from tests.rigs.fakes.kit_echo import Echo

ECHO = [sys.executable, "-m", "tests.rigs.fakes.kit_echo", "--config", "unused"]


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _wait_ready(
    path: Path, process: subprocess.Popen[str], *, is_parent: bool = False
) -> Readiness:
    pid = None if is_parent else process.pid
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if (ready := read_ready_file(path, pid=pid)) is not None:
            return ready
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("not ready in time")


def _start(started: list[subprocess.Popen[str]], *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*ECHO, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    started.append(process)
    return process


async def test_sigterm_ends_a_process_gracefully(
    tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    ready_file = tmp_path / "ready.json"
    process = _start(started, "--ready-file", str(ready_file), "--log-format", "json")
    ready = await asyncio.to_thread(_wait_ready, ready_file, process)
    async with Echo.connect(ready.address).channel as channel:
        watched = stream(Echo(channel).watch("for ever"), peer="echo")
        await anext(watched)
        slow = asyncio.create_task(Echo(channel).say("sleep 0.5"))
        await asyncio.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert await slow == "sleep 0.5"
        with pytest.raises(RemoteError, match="shutting down"):
            await anext(watched)
    _, stderr = await asyncio.to_thread(process.communicate, timeout=10)
    assert process.returncode == 0
    actions = [json.loads(line).get("action") for line in stderr.splitlines()]
    assert actions == ["service.serving", "service.stopping", "service.stopped"]
    assert not ready_file.exists()


async def test_a_second_signal_ends_it_at_once(
    tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    ready_file = tmp_path / "ready.json"
    ready_file.write_text('{"address": "127.0.0.1:1", "pid": 1}')
    process = _start(started, "--ready-file", str(ready_file))
    ready = await asyncio.to_thread(_wait_ready, ready_file, process)
    async with Echo.connect(ready.address).channel as channel:
        slow = asyncio.create_task(Echo(channel).say("sleep 30", timeout_seconds=30))
        await asyncio.sleep(0.2)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            await asyncio.sleep(0.3)
        await asyncio.to_thread(process.wait, timeout=3)
        with pytest.raises(RemoteError):
            await slow
    assert process.returncode == 130


def test_an_address_in_use_is_one_readable_paragraph(
    tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")
    process = _start(started, "--listen", f"unix:{taken}", "--log-format", "none")
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 1
    assert stderr == (
        f"echo: {taken} exists and is not a socket "
        "(stop the other process or choose another address)\n"
    )


def test_a_child_ends_when_its_parent_was_killed(
    tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    ready_file = tmp_path / "ready.json"
    script = (
        "import os, subprocess, sys, time;"
        "subprocess.Popen([*sys.argv[1:], '--parent-pid', str(os.getpid())]);"
        "time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, *ECHO, "--ready-file", str(ready_file)],
        stderr=subprocess.DEVNULL,
        text=True,
    )
    started.append(parent)
    child = _wait_ready(ready_file, parent, is_parent=True).pid
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{child}") and not _is_zombie(child):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.05)
    assert not ready_file.exists()


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_ready_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "ready.json"
    assert read_ready_file(path) is None
    write_ready_file(path, "127.0.0.1:5")
    assert read_ready_file(path) == Readiness("127.0.0.1:5", os.getpid())
    assert json.loads(path.read_text()) == {"address": "127.0.0.1:5", "pid": os.getpid()}
    assert list(path.parent.iterdir()) == [path]
    assert read_ready_file(path, pid=os.getpid()) is not None
    assert read_ready_file(path, pid=os.getpid() + 1) is None
    path.write_text("[]")
    with pytest.raises(ReadyFileError):
        read_ready_file(path)
