"""The start every service shares: its config, its address, its exit."""

from pathlib import Path

import pytest
import yaml

from services.config import ConfigError, Problem
from services.config.service_args import ServiceSetup, service_main
from services.kit.failure import Failure, ReportedError

DOCUMENT = {
    "vcenter": {"host": "vc", "user": "root", "password": "hunter2"},
    "migration": {"vddk_path": "/opt/vddk", "control_dir": "/var/lib/x"},
    "cloudstack": {"endpoint": "cs", "api_key": "a", "secret_key": "b"},
}


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(DOCUMENT))
    return str(tmp_path / "config.yaml")


def setup_of(*arguments: str) -> ServiceSetup:
    seen: list[ServiceSetup] = []

    async def serve(setup: ServiceSetup) -> None:
        seen.append(setup)

    assert service_main("disk", "copies disks", serve, arguments) == 0
    return seen[0]


def test_the_address_is_the_configs_unless_given(config: str) -> None:
    assert setup_of("--config", config).listen == "unix:/var/lib/x/run/disk.sock"

    given = setup_of("--config", config, "--listen", "127.0.0.1:0", "--ready-file", "/run/x.ready")
    assert given.listen == "127.0.0.1:0"
    assert given.ready_file == Path("/run/x.ready")
    assert given.tls is None


def test_tls_files_are_the_configs(tmp_path: Path) -> None:
    tls = {"ca": "ca.crt", "certificate": "h.crt", "key": "h.key"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**DOCUMENT, "tls": tls}))

    setup = setup_of("--config", str(tmp_path / "config.yaml"))

    assert setup.tls is not None
    assert setup.tls.key == tmp_path / "h.key"


def test_show_config_hides_secrets(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def serve(setup: ServiceSetup) -> None:
        pytest.fail("it must not serve")

    assert service_main("disk", "", serve, ["--config", config, "--show-config"]) == 0

    shown = capsys.readouterr().out
    assert "unix:/var/lib/x/run/disk.sock" in shown
    assert "hunter2" not in shown


def test_a_wrong_config_is_reported_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("vcenter: {hots: x}\n")

    async def serve(setup: ServiceSetup) -> None:
        pytest.fail("it must not serve")

    status = service_main("disk", "", serve, ["--config", str(tmp_path / "config.yaml")])

    assert status == 78
    assert "Did you mean host?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (ConfigError((Problem("c", 1, 1, "vcenter.password", "", "is wrong"),)), 78, "c:1:1: vc"),
        (ReportedError(Failure("AWAY", "vc is away")), 1, "vc is away"),
    ],
)
def test_errors_while_serving_become_a_line_and_a_status(
    config: str,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    status: int,
    expected: str,
) -> None:
    async def serve(setup: ServiceSetup) -> None:
        raise error

    arguments = ["--config", config, "--log-format", "none"]
    assert service_main("disk", "", serve, arguments) == status
    assert expected in capsys.readouterr().err
