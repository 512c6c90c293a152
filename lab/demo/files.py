"""Config and spec files for migrating between a lab's vCenter and its CloudStack."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lab.stack import HOST, Lab

SERVICES = ("vmware", "disk", "cloudstack", "orchestrator")
_DEFAULTS = (
    "zoneid",
    "clusterid",
    "storageid",
    "networkid",
    "serviceofferingid",
    "diskofferingid",
    "ostypeid",
)


def free_ports(count: int) -> list[int]:
    """Ports on loopback that are not in use."""
    probes = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def config_for(lab: Lab, control_dir: Path, **sections: Mapping[str, Any]) -> dict[str, Any]:
    """The content of config.yaml for a lab; ``sections`` are merged over it."""
    vcenter, cloudstack = lab.info["vcenter"], lab.info["cloudstack"]
    config: dict[str, Any] = {
        "vcenter": {
            "host": vcenter["host"],
            "port": vcenter["port"],
            "user": vcenter["user"],
            "password": vcenter["password"],
            "thumbprint": vcenter["thumbprint_sha256"],
        },
        "migration": {
            "vddk_path": lab.info["vddk_path"],
            "control_dir": str(control_dir),
            # After a power-off the lab has no storage array that still writes cached data.
            "finalize_settle_seconds": 1,
        },
        "cloudstack": {name: cloudstack[name] for name in ("endpoint", "api_key", "secret_key")},
        "cloudstack_defaults": {name: cloudstack["ids"][name] for name in _DEFAULTS},
    }
    for name, values in sections.items():
        config[name] = {**config.get(name, {}), **values}
    return config


def write_yaml(path: Path, content: object) -> Path:
    """Write a file that only its owner can read, because a config holds passwords."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return path


def spec_for(name: str, *, networks: Sequence[str] = (), **migration: object) -> dict[str, Any]:
    """One VM of a spec; its adapters (keys from 4000) get ``networks`` in order."""
    spec: dict[str, Any] = {"vm": {"name": name}, "migration": dict(migration)}
    if networks:
        mappings = {str(4000 + i): {"networkid": network} for i, network in enumerate(networks)}
        spec["target"] = {"cloudstack": {"nic_mappings": mappings}}
    return spec
