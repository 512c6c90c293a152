"""docs/howto/configure.md states that secrets are in no log: a whole stack is searched for them."""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rigs.stack.checks import processes_of
from tests.rigs.stack.client import client_of, quick
from tests.rigs.stack.scenario import machine, scenario
from tests.rigs.stack.site import Serving, Site, running_site, serving
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

_DATABASE_PASSWORD = "postgres-pass/word-7931"


@pytest.fixture(scope="module")
def secrets_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secrets")


@pytest.fixture(scope="module")
def secret_site(secrets_dir: Path) -> Iterator[Site]:
    """Secrets by reference, every log line written."""
    with running_site(
        secrets_dir,
        scenario(machine("leaky", 8)),
        vcenter={"password": "file:vcenter-password"},
        cloudstack={"api_key": "file:api-key", "secret_key": "file:secret-key"},
        database={
            "url": "sqlite:///{control_dir}/v2c.sqlite3?password="
            + urllib.parse.quote(_DATABASE_PASSWORD)
        },
        logging={"level": "debug"},
    ) as site:
        vcenter, cloudstack = site.lab.info["vcenter"], site.lab.info["cloudstack"]
        (secrets_dir / "vcenter-password").write_text(vcenter["password"] + "\n")
        (secrets_dir / "api-key").write_text(cloudstack["api_key"])
        (secrets_dir / "secret-key").write_text(cloudstack["secret_key"])
        yield site


@pytest.fixture(scope="module")
def secret_stack(secret_site: Site) -> Iterator[Serving]:
    with serving(secret_site) as running:
        yield running


def _status(stack: Serving, path: str, token: str) -> int:
    request = urllib.request.Request(  # noqa: S310 - http, to the server just started
        f"{stack.rest}{path}", headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


def _found_in(directory: Path, secrets: dict[str, str]) -> list[str]:
    """Which secret is in which file, plain or as a URL's part has it."""
    return [
        f"{name} in {path.name}"
        for path in sorted(directory.rglob("*"))
        if path.is_file()
        for name, secret in secrets.items()
        for form in {secret, urllib.parse.quote(secret, safe="")}
        if form.encode() in path.read_bytes()
    ]


def test_no_secret_reaches_a_log_a_state_file_or_a_command_line(
    secret_site: Site, secret_stack: Serving
) -> None:
    vcenter, cloudstack = secret_site.lab.info["vcenter"], secret_site.lab.info["cloudstack"]
    secrets = {
        "vCenter's password": vcenter["password"],
        "CloudStack's API key": cloudstack["api_key"],
        "CloudStack's secret key": cloudstack["secret_key"],
        "the admin token": secret_stack.token,
        "the database's password": _DATABASE_PASSWORD,
    }
    assert all(len(secret) >= 8 for secret in secrets.values()), secrets
    assert _status(secret_stack, "/vmware/vms", secret_stack.token) == 200
    assert _status(secret_stack, "/vmware/vms", "no-such-token") == 401
    # Servers repeat what they were sent: here CloudStack's error has vCenter's password.
    secret_site.lab.cloudstack.call(
        "fault",
        command="importVm",
        kind="error",
        code=431,
        text=f"cannot log in with {vcenter['password']} and {cloudstack['secret_key']}",
    )
    secret_site.lab.vcenter.call(
        "fault",
        method="CreateSnapshot",
        fault="TaskInProgress",
        message=f"in use by {cloudstack['api_key']} of {vcenter['password']}",
    )
    with client_of(secret_site) as client:
        client.submit(quick("leaky"))
        client.finalize("leaky")
        failed = client.wait_state("leaky", pb.STATE_FAILED)
        assert failed.error.reason == "CLOUDSTACK_PARAMETER_REFUSED"
        assert "cannot log in with ***" in failed.error.message
        command_lines = " ".join(processes_of(secret_site).values())
        client.retry("leaky")
        client.wait_done("leaky")
    assert (secret_site.control_dir / "logs" / "cloudstack_agent.log").stat().st_size > 0
    assert _found_in(secret_site.control_dir, secrets) == []
    assert [name for name, secret in secrets.items() if secret in command_lines] == []
    assert [name for name, secret in secrets.items() if secret in secret_stack.process.err] == []
