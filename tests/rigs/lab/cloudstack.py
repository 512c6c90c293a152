"""A running CloudStack of the lab, and a bare signed client to question it with."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlencode

from lab.cloudstack.seed import default_ids
from lab.control import ControlClient

IDS = default_ids()


@dataclass(frozen=True)
class Reply:
    """HTTP status and the object inside the one envelope of the answer."""

    status: int
    envelope: str
    body: dict[str, Any]


@dataclass(frozen=True)
class CloudStackLab:
    """A management server process of the lab."""

    directory: Path
    port: int
    api_key: str
    secret_key: str
    process: subprocess.Popen[bytes]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/client/api"

    @property
    def pool(self) -> Path:
        return self.directory / "pool"

    @property
    def control(self) -> ControlClient:
        return ControlClient(self.directory / "cloudstack" / "control.sock")

    def send(self, parameters: Mapping[str, str], *, method: str = "POST") -> Reply:
        """Send decoded parameters as they are."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            form = urlencode(parameters)
            if method == "GET":
                connection.request("GET", f"/client/api?{form}")
            else:
                connection.request(
                    "POST",
                    "/client/api",
                    form,
                    {"Content-Type": "application/x-www-form-urlencoded"},
                )
            response = connection.getresponse()
            ((envelope, body),) = json.loads(response.read()).items()
        return Reply(response.status, envelope, body)

    def sign(
        self, command: str, parameters: Mapping[str, str], lifetime_seconds: float = 600
    ) -> dict[str, str]:
        """The parameters of a version 3 request."""
        expires = datetime.now(UTC) + timedelta(seconds=lifetime_seconds)
        full = {
            "command": command,
            "apiKey": self.api_key,
            "response": "json",
            "signatureVersion": "3",
            "expires": expires.strftime("%Y-%m-%dT%H:%M:%S+0000"),
            **parameters,
        }
        return {**full, "signature": reference_signature(full, self.secret_key)}

    def call(self, command: str, **parameters: str) -> Reply:
        """One signed request; keys with dots go through ``**{...}``."""
        return self.send(self.sign(command, parameters))

    def ok(self, command: str, **parameters: str) -> dict[str, Any]:
        """The object of an accepted request."""
        reply = self.call(command, **parameters)
        assert reply.status == 200, reply
        return reply.body

    def job(self, command: str, **parameters: str) -> dict[str, Any]:
        """Submit and poll until the job has ended; the row of queryAsyncJobResult."""
        return self.wait_job(self.ok(command, **parameters)["jobid"])

    def wait_job(self, job_id: str, seconds: float = 10) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            row = self.ok("queryAsyncJobResult", jobid=job_id)
            if row["jobstatus"] != 0:
                return row
            time.sleep(0.01)
        raise AssertionError(f"job {job_id} is still pending")

    def import_vm(self, **changed: str) -> dict[str, Any]:
        """importVm of ``root.qcow2`` with usual parameters; the job's row."""
        parameters = {
            "zoneid": IDS["zoneid"],
            "clusterid": IDS["clusterid"],
            "name": "web-1",
            "serviceofferingid": IDS["serviceofferingid"],
            "hypervisor": "kvm",
            "importsource": "shared",
            "diskpath": "root.qcow2",
            "networkid": IDS["networkid"],
            "storageid": IDS["storageid"],
            "details[0].cpuNumber": "2",
            "details[0].memory": "1024",
        } | changed
        return self.job("importVm", **parameters)


def reference_signature(parameters: Mapping[str, str], secret_key: str) -> str:
    """The signature after Java's URLEncoder, written from its documentation."""
    encoded = {
        name: quote_plus(value, safe="*").replace("~", "%7E").replace("+", "%20")
        for name, value in parameters.items()
    }
    text = "&".join(f"{name}={encoded[name]}" for name in sorted(encoded)).lower()
    return base64.b64encode(
        hmac.new(secret_key.encode(), text.encode(), hashlib.sha1).digest()
    ).decode()


def create_image(path: Path, size: str = "64M", *options: str) -> Path:
    """An empty QCOW2 image."""
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), size], check=True
    )
    return path


@contextlib.contextmanager
def running_cloudstack(directory: Path, port: int = 0) -> Iterator[CloudStackLab]:
    """Start ``python -m lab.cloudstack`` and wait until its port answers."""
    port = port or _free_port()
    argv = [sys.executable, "-m", "lab.cloudstack", "--dir", str(directory), "--port", str(port)]
    with subprocess.Popen([*argv, "--job-latency", "0.01"]) as process:
        try:
            _wait_for_port(port, process)
            keys = json.loads((directory / "cloudstack" / "credentials.json").read_text())
            yield CloudStackLab(directory, port, keys["api_key"], keys["secret_key"], process)
        finally:
            process.terminate()
            process.wait(timeout=10)


def fresh_uuid() -> str:
    """A caller-chosen job id."""
    return str(uuid.uuid4())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None, "lab.cloudstack ended early"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise AssertionError("lab.cloudstack did not open its port")
