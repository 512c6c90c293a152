"""The supervisor: services as child processes, started, restarted, stopped, never left behind."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cli.errors import CommandError
from cli.stack.service_process import ServiceCommand
from cli.stack.stack import StackTimes, local_services, running_stack
from services.config import Config, load_config

QUICK = StackTimes(ready=20, grace=5, first_backoff=0.05, longest_backoff=0.2)

# A service on the kit, without a domain: how it misbehaves is in its name's file.
SERVICE = """
import asyncio, os, sys
from pathlib import Path
from services.config import ConfigError, Problem
from services.config.service_args import service_main
from services.kit.failure import Failure, ReportedError
from services.kit.server import run_service

async def serve(setup):
    control_dir = setup.config.migration.control_dir
    name = Path(setup.listen.removeprefix("unix:")).stem
    how = control_dir / f"{name}.how"
    how = how.read_text() if how.exists() else ""
    with (control_dir / f"{name}.pids").open("a") as file:
        file.write(f"{os.getpid()}\\n")
    if how == "service error":
        raise ReportedError(
            Failure("NO_LUCK", "vCenter does not answer", hint="check vcenter.host"))
    if how == "config error":
        raise ConfigError((Problem("config.yaml", 3, 5, "vcenter.password", "", "is wrong"),))
    if how == "defect":
        raise RuntimeError("this is a defect")
    if how == "never ready":
        await asyncio.sleep(60)
    async def register(server):
        return []
    async def on_shutdown():
        with (control_dir / "stopped").open("a") as file:
            file.write(f"{name}\\n")
    await run_service(name, setup.listen, setup.tls, register, ready_file=setup.ready_file,
                      on_shutdown=on_shutdown)

sys.exit(service_main("disk", "a stand-in", serve))
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    for module in ("fake_agent", "fake_orchestrator"):
        (tmp_path / f"{module}.py").write_text(SERVICE)
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{root}:{root / 'proto'}")
    document = {
        "vcenter": {"host": "vc", "user": "root"},
        "migration": {"vddk_path": "/opt/vddk", "control_dir": str(tmp_path / "c")},
        "cloudstack": {"endpoint": "cs", "api_key": "a", "secret_key": "b"},
        "logging": {"level": "warning"},
    }
    (tmp_path / "c").mkdir()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    return load_config(tmp_path / "config.yaml")


def commands(config: Config) -> list[ServiceCommand]:
    run = config.migration.control_dir / "run"
    return [
        ServiceCommand("disk_agent", "fake_agent", f"unix:{run}/disk.sock"),
        ServiceCommand("orchestrator", "fake_orchestrator", f"unix:{run}/orchestrator.sock"),
    ]


def pids(config: Config, name: str) -> list[int]:
    file = config.migration.control_dir / f"{name}.pids"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - other processes raise no event here
            await asyncio.sleep(0.02)


async def test_all_serve_inside_and_none_is_left_after(config: Config) -> None:
    async with running_stack(config, commands(config), print, QUICK):
        (agent,), (orchestrator,) = pids(config, "disk"), pids(config, "orchestrator")
        assert alive(agent)
        assert alive(orchestrator)

    assert not alive(agent)
    assert not alive(orchestrator)
    stopped = (config.migration.control_dir / "stopped").read_text().split()
    assert stopped == ["orchestrator", "disk"]


async def test_a_crashed_service_is_started_again_and_it_is_reported(config: Config) -> None:
    notes: list[str] = []
    async with running_stack(config, commands(config), notes.append, QUICK):
        (first,) = pids(config, "disk")
        os.kill(first, signal.SIGKILL)
        await until(lambda: "disk_agent is back" in notes)
        second = pids(config, "disk")[-1]

        assert second != first
        assert alive(second)
        assert "disk_agent was ended by signal 9" in notes[0]
    assert not alive(second)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("service error", "vCenter does not answer (check vcenter.host)"),
        ("config error", "config.yaml:3:5: vcenter.password: is wrong"),
        ("defect", "RuntimeError: this is a defect"),
    ],
)
async def test_a_service_that_cannot_start_reports_why_in_its_own_message(
    config: Config, how: str, expected: str
) -> None:
    (config.migration.control_dir / "orchestrator.how").write_text(how)

    with pytest.raises(CommandError) as caught:
        async with running_stack(config, commands(config), print, QUICK):
            pytest.fail("it must not get here")

    assert expected in caught.value.message
    assert "\n" not in caught.value.message
    assert not any(alive(pid) for pid in pids(config, "disk") + pids(config, "orchestrator"))


async def test_a_service_that_is_never_ready_is_given_up(config: Config) -> None:
    (config.migration.control_dir / "disk.how").write_text("never ready")
    hurried = StackTimes(ready=2, grace=1)

    with pytest.raises(CommandError, match=r"disk_agent is not ready after 2 s.*disk_agent\.log"):
        async with running_stack(config, commands(config), print, hurried):
            pytest.fail("it must not get here")

    assert not any(alive(pid) for pid in pids(config, "disk"))


async def test_one_stack_per_control_dir(config: Config) -> None:
    async with running_stack(config, [], print, QUICK):
        with pytest.raises(CommandError, match=f"process {os.getpid()}"):
            async with running_stack(config, [], print, QUICK):
                pytest.fail("it must not get here")

    async with running_stack(config, [], print, QUICK):
        pass


async def test_services_end_with_a_killed_supervisor(config: Config, tmp_path: Path) -> None:
    run = config.migration.control_dir / "run"
    program = (
        "import asyncio, sys\n"
        "from cli.stack.service_process import ServiceCommand\n"
        "from cli.stack.stack import running_stack\n"
        "from services.config import load_config\n"
        "from services.kit.logging import LogSettings, configure_logging\n"
        "configure_logging(LogSettings(stderr_format=None), service='cli')\n"
        "async def main():\n"
        "    config = load_config(sys.argv[1])\n"
        f"    command = ServiceCommand('disk_agent', 'fake_agent', 'unix:{run}/disk.sock')\n"
        "    async with running_stack(config, [command], print):\n"
        "        print('ready', flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    supervisor = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, str(config.path)), stdout=asyncio.subprocess.PIPE
    )
    assert supervisor.stdout is not None
    assert await supervisor.stdout.readline() == b"ready\n"
    (agent,) = pids(config, "disk")

    supervisor.kill()
    await supervisor.communicate()

    await until(lambda: not alive(agent))


async def test_a_control_dir_that_cannot_be_written_names_the_field(
    config: Config, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    text = (
        (tmp_path / "config.yaml").read_text().replace(str(tmp_path / "c"), str(tmp_path / "file"))
    )
    (tmp_path / "other.yaml").write_text(text)

    with pytest.raises(CommandError, match=r"migration\.control_dir"):
        async with running_stack(load_config(tmp_path / "other.yaml"), [], print, QUICK):
            pytest.fail("it must not get here")


def test_services_of_other_hosts_are_not_started_here(tmp_path: Path) -> None:
    document = {
        "vcenter": {"host": "vc", "user": "root"},
        "migration": {"vddk_path": "/opt/vddk"},
        "cloudstack": {"endpoint": "cs", "api_key": "a", "secret_key": "b"},
        "tls": {"ca": "ca", "certificate": "crt", "key": "key"},
        "agents": {"disk": "storage1:7002", "vmware": "127.0.0.1:7001"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    config = load_config(tmp_path / "config.yaml")

    named = [command.name for command in local_services(config, gateway_listen=None)]
    served = [command.name for command in local_services(config, gateway_listen=":8000")]

    assert named == ["vmware_agent", "cloudstack_agent", "orchestrator"]
    assert served == [*named, "gateway"]
