"""The orchestrator spoken to with grpcurl: no stub, no source, only reflection."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.demo import files
from services.kit.pki import create_pki, tls_files
from services.kit.tls import TlsFiles
from tests.rigs.stack.checks import assert_migrated
from tests.rigs.stack.client import Client, client_of, quick
from tests.rigs.stack.scenario import machine, scenario
from tests.rigs.stack.site import Serving, Site, running_site, serving

GRPCURL = Path(sys.executable).with_name("grpcurl")
SERVICE = "v2c.orchestrator.v1.OrchestratorService"


class Grpcurl:
    """grpcurl for one address."""

    def __init__(self, *access: str) -> None:
        self._access = access

    def __call__(self, *words: str, data: dict[str, Any] | None = None) -> str:
        done = subprocess.run(
            self._command(words, data), capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def call(self, method: str, data: dict[str, Any]) -> dict[str, Any]:
        """A unary call; its answer."""
        answer: dict[str, Any] = json.loads(self(f"{SERVICE}/{method}", data=data))
        return answer

    def watch(self, method: str, data: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """A stream's messages; the stream is left by not asking for the next one."""
        command = self._command((f"{SERVICE}/{method}",), data)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                text = ""
                for line in process.stdout:
                    text += line
                    if line == "}\n":
                        yield json.loads(text)
                        text = ""
            finally:
                process.terminate()

    def _command(self, words: tuple[str, ...], data: dict[str, Any] | None) -> list[str]:
        # The service answers unary calls with a deadline only.
        options = ["-max-time", "60"]
        given = [] if data is None else ["-d", json.dumps(data)]
        return [str(GRPCURL), *options, *self._access[:-1], *given, self._access[-1], *words]


def test_a_migration_by_grpcurl_over_a_unix_socket(site: Site, client: Client) -> None:
    grpcurl = Grpcurl("-plaintext", "-unix", str(site.control_dir / "run" / "orchestrator.sock"))
    assert SERVICE in grpcurl("list").split()
    assert f"{SERVICE}.WatchMigrations" in grpcurl("list", SERVICE).split()

    spec = yaml.safe_dump(quick("by grpcurl"))
    submitted = grpcurl.call("SubmitSpec", {"spec": spec, "source": "curl.yaml", "start": True})
    (migration,) = submitted["migrations"]
    # Names are the proto's own: the reflected descriptors of Python's runtime have no others.
    assert migration["vm_name"] == "by grpcurl"
    selector = {"migration_id": migration["id"]}
    stages: list[str] = []
    asked = False
    for update in grpcurl.watch("WatchMigrations", {"selectors": [selector]}):
        now = update["migration"]
        if now["stage"] not in stages[-1:]:
            stages.append(now["stage"])
        if now["stage"] == "STAGE_DELTA" and not asked:
            asked = True
            answer = grpcurl.call("FinalizeMigration", {"selector": selector, "now": True})
            assert answer["migration"]["finalize_now_requested"] is True
        if now["state"] in ("STATE_DONE", "STATE_FAILED"):
            break

    assert stages[-1] == "STAGE_DONE"
    assert {"STAGE_BASE_COPY", "STAGE_DELTA", "STAGE_FINAL_SYNC"} <= set(stages)
    assert_migrated(site, client.get("by grpcurl"))


@pytest.fixture
def mutual_tls(tmp_path: Path) -> Iterator[tuple[Site, TlsFiles, Serving]]:
    """A stack whose services are on TCP ports with certificates."""
    create_pki(tmp_path / "pki", ["services", "operator"], ["127.0.0.1"])
    ports = dict(zip(files.SERVICES, files.free_ports(4), strict=True))
    own = tls_files(tmp_path / "pki", "services")
    sections = {
        "agents": {name: f"127.0.0.1:{port}" for name, port in ports.items()},
        "tls": {"ca": str(own.ca), "certificate": str(own.certificate), "key": str(own.key)},
    }
    with (
        running_site(tmp_path, scenario(machine("safe", 8)), **sections) as site,
        serving(site) as running,
    ):
        yield site, tls_files(tmp_path / "pki", "operator"), running


def test_a_migration_by_grpcurl_over_mutual_tls(
    mutual_tls: tuple[Site, TlsFiles, Serving],
) -> None:
    site, operator, _ = mutual_tls
    address = site.content["agents"]["orchestrator"]
    certificates = ("-cacert", str(operator.ca))
    key = ("-cert", str(operator.certificate), "-key", str(operator.key))
    grpcurl = Grpcurl(*certificates, *key, address)
    assert SERVICE in grpcurl("list").split()

    # Without a certificate nobody is let in, with or without encryption.
    for access in (certificates, ("-plaintext",)):
        refused = subprocess.run(
            [str(GRPCURL), "-max-time", "10", *access, address, "list"], capture_output=True
        )
        assert refused.returncode != 0

    spec = yaml.safe_dump(quick("safe"))
    submitted = grpcurl.call("SubmitSpec", {"spec": spec, "start": True})
    selector = {"migration_id": submitted["migrations"][0]["id"]}
    grpcurl.call("FinalizeMigration", {"selector": selector, "now": True})
    ended = next(
        update["migration"]
        for update in grpcurl.watch("WatchMigrations", {"selectors": [selector]})
        if update["migration"]["state"] in ("STATE_DONE", "STATE_FAILED")
    )
    assert ended["state"] == "STATE_DONE"
    events = grpcurl.call("ListEvents", {"selector": selector})["events"]
    # Who asked is the name in the certificate.
    assert {e["actor"] for e in events if e["action"] == "operator.finalize"} == {"operator"}
    with client_of(site, operator) as client:
        assert_migrated(site, client.get("safe"))
