"""The agent as its own process: configuration, readiness, logs without secrets, exit."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.kit.channel import connect_sync, remote_errors
from services.kit.errors import RemoteError
from services.kit.processes.service import Readiness, read_ready_file
from tests.rigs.lab.cloudstack import CloudStackLab, fresh_uuid, running_cloudstack
from v2c.cloudstack.v1 import cloudstack_pb2 as pb
from v2c.cloudstack.v1 import cloudstack_pb2_grpc as pb_grpc


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudStackLab]:
    with running_cloudstack(tmp_path_factory.mktemp("cloudstack-process")) as running:
        yield running


def write_config(directory: Path, endpoint: str, secret: str) -> Path:
    path = directory / "config.yaml"
    path.write_text(
        f"""
vcenter: {{host: vc.example, user: u, password: p}}
migration: {{control_dir: {directory}, vddk_path: {directory}}}
cloudstack:
  endpoint: {endpoint}
  api_key: file:api.key
  secret_key: {secret}
  timeout_seconds: 5
"""
    )
    return path


@contextlib.contextmanager
def running_agent(config: Path, log: Path) -> Iterator[tuple[Readiness, subprocess.Popen[bytes]]]:
    ready = config.with_name("ready")
    argv = [sys.executable, "-m", "services.cloudstack_agent", "--config", str(config)]
    argv += ["--ready-file", str(ready), "--log-level", "DEBUG", "--log-file", str(log)]
    argv += ["--listen", f"unix:{config.parent}/agent.sock"]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 20
            while (readiness := read_ready_file(ready)) is None:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield readiness, process
        finally:
            process.kill()


def test_it_serves_the_configured_cloudstack_and_logs_no_secrets(
    lab: CloudStackLab, tmp_path: Path
) -> None:
    (tmp_path / "api.key").write_text(f"{lab.api_key}\n")
    host_and_port = f"127.0.0.1:{lab.port}"
    config = write_config(tmp_path, host_and_port, lab.secret_key)
    log = tmp_path / "agent.log"
    with running_agent(config, log) as (readiness, process):
        with connect_sync(readiness.address, None) as channel:
            stub = pb_grpc.CloudstackServiceStub(channel)
            found = stub.GetEndpoint(pb.GetEndpointRequest(), timeout=10)
            assert found.endpoint == f"http://{host_and_port}/client/api"
            with pytest.raises(RemoteError) as missing, remote_errors("agent"):
                stub.GetJob(pb.GetJobRequest(job_id=fresh_uuid()), timeout=10)
            assert missing.value.reason == "JOB_NOT_FOUND"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    text = log.read_text()
    assert "service.serving" in text
    assert lab.secret_key not in text
    assert lab.api_key not in text


def test_a_missing_secret_is_named_and_the_process_ends(lab: CloudStackLab, tmp_path: Path) -> None:
    config = write_config(tmp_path, lab.endpoint, "file:absent.key")
    (tmp_path / "api.key").write_text(lab.api_key)
    argv = [sys.executable, "-m", "services.cloudstack_agent", "--config", str(config)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 78
    assert "cloudstack.secret_key" in done.stderr
