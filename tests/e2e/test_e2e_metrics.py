"""The metrics address of the config serves what Prometheus reads."""

import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import yaml

from lab.demo.files import free_ports

_START_SECONDS = 20.0


def test_a_service_serves_metrics_at_the_address_in_the_config(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    config = {
        "vcenter": {"host": "127.0.0.1", "port": 1, "user": "u", "password": "p"},
        "migration": {"vddk_path": str(tmp_path), "control_dir": str(tmp_path / "control")},
        "cloudstack": {"endpoint": "http://127.0.0.1:1", "api_key": "k", "secret_key": "s"},
        "metrics": {"vmware": f"127.0.0.1:{port}"},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    ready = tmp_path / "ready"
    command = [sys.executable, "-m", "services.vmware_agent", "--config", str(path)]
    with subprocess.Popen([*command, "--ready-file", str(ready)]) as process:
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not ready.exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                assert "v2c_rpc_seconds" in answer.read().decode()
        finally:
            process.terminate()
