"""Runs the whole demo and prints its summary."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.demo import files, proof, views
from lab.demo.report import migration_report, summary
from lab.demo.watcher import Watcher, target_paths
from lab.guest.appliance import build_appliance
from lab.stack import HOST, Lab, running_lab
from services.kit.pki import create_pki, tls_files
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

_DELTA_PASSES = 2
_DELTA_SECONDS = 4
_CERTIFICATE = "demo"

Report = Callable[[str], None]


@dataclass
class _Proofs:
    """The comparisons made so far, by VM and disk key."""

    disks: dict[str, dict[int, proof.Comparison]] = field(default_factory=dict)
    last_writes: dict[str, dict[int, proof.LastWrites]] = field(default_factory=dict)


def run_demo(result_path: Path, *, keep: bool, report: Report) -> bool:
    """Run the demo; True if every VM is migrated and no comparison finds a difference.

    Writes ``result_path``. With ``keep`` the lab's directory is kept, and the report names it.
    """
    started = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="v2c-demo-"))
    try:
        report("Lab: a vCenter with two running VMs, an ESXi data path and a CloudStack")
        with running_lab(directory / "lab", "demo") as lab:
            result = _migrate(lab, directory, report)
    finally:
        if keep:
            report(f"Kept: {directory} (v2c lab up --dir {directory}/lab starts it again)")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    result["seconds"] = round(time.monotonic() - started, 1)
    result_path.parent.mkdir(parents=True, exist_ok=True)
    result_path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    report(summary(result))
    report(f"Details: {result_path}")
    return bool(result["proven"])


def _migrate(lab: Lab, directory: Path, report: Report) -> dict[str, Any]:
    config, spec, address = _write_files(lab, directory)
    proofs = _Proofs()
    tls = tls_files(directory / "pki", _CERTIFICATE)
    watcher = Watcher(address, tls, _DELTA_PASSES, lambda m: _prove(lab, m, proofs))
    watcher.start()
    report(f"Stack: v2c run --spec {spec} --config {config} (five processes, mutual TLS)\n")
    command = [sys.executable, "-m", "cli", "run", "--spec", str(spec), "--config", str(config)]
    # With this appliance a conversion without KVM takes 28 s instead of 35 s. v2c works without it.
    environment = {**os.environ, "LIBGUESTFS_PATH": str(build_appliance())}
    exit_code = subprocess.run(command, env=environment, check=False).returncode
    watcher.stop()
    report("\nProof: every image, before its conversion, against the source's disk at shutdown")
    if watcher.failure is not None:
        report(f"  the proof could not be made: {watcher.failure}")
    for migration in watcher.migrations.values():
        if migration.state == pb.STATE_DONE and migration.vm_name not in proofs.disks:
            _prove(lab, migration, proofs)
    return _judge(lab, watcher, proofs, exit_code)


def _write_files(lab: Lab, directory: Path) -> tuple[Path, Path, str]:
    create_pki(directory / "pki", [_CERTIFICATE], [HOST])
    tls = tls_files(directory / "pki", _CERTIFICATE)
    *ports, gateway = files.free_ports(len(files.SERVICES) + 1)
    agents = {name: f"{HOST}:{port}" for name, port in zip(files.SERVICES, ports, strict=True)}
    config = files.config_for(
        lab,
        directory / "control",
        tls={"ca": str(tls.ca), "certificate": str(tls.certificate), "key": str(tls.key)},
        agents=agents,
        gateway={"listen": f"{HOST}:{gateway}"},
    )
    ids = lab.info["cloudstack"]["ids"]
    common: dict[str, Any] = {"delta_interval": _DELTA_SECONDS, "start_vm_after_import": True}
    spec = {
        "vms": [
            files.spec_for("web01", run_virt_v2v=True, **common),
            files.spec_for(
                "app server 02",
                networks=(ids["networkid"], ids["networkid2"]),
                run_virt_v2v=False,
                **common,
            ),
        ]
    }
    return (
        files.write_yaml(directory / "config.yaml", config),
        files.write_yaml(directory / "spec.yaml", spec),
        agents["orchestrator"],
    )


def _prove(lab: Lab, migration: pb.Migration, proofs: _Proofs) -> None:
    """Compare all disks of a VM that is off with its images."""
    vm = lab.vm(migration.vm_moref)
    socket = Path(lab.info["esxi"]["socket"])
    disks: dict[int, proof.Comparison] = {}
    last_writes: dict[int, proof.LastWrites] = {}
    exports = {disk["key"]: disk["export"] for disk in vm["disks"]}
    for key, path in target_paths(migration).items():
        with proof.source_disk(socket, exports[key]) as source, proof.image(path) as target:
            disks[key] = proof.compare(source, target)
            last_writes[key] = proof.last_writes(Path(vm["write_log"]), exports[key], target)
    proofs.disks[migration.vm_name] = disks
    proofs.last_writes[migration.vm_name] = last_writes


def _judge(lab: Lab, watcher: Watcher, proofs: _Proofs, exit_code: int) -> dict[str, Any]:
    names = [vm["name"] for vm in lab.info["vms"]]
    sources = views.vcenter_view(lab, names)
    vms = []
    for name in names:
        migration = watcher.migrations.get(name)
        if migration is None:
            continue
        entry = migration_report(
            migration, proofs.disks.get(name, {}), proofs.last_writes.get(name, {})
        )
        entry["vcenter"] = sources[name]
        if migration.target_vm_id:
            entry["cloudstack"] = views.cloudstack_view(lab, migration.target_vm_id)
        vms.append(entry)
    proven = (
        exit_code == 0
        and len(vms) == len(names)
        and all(entry["proven"] and not entry["vcenter"]["snapshots"] for entry in vms)
        and all(entry["vcenter"]["power"] == "poweredOff" for entry in vms)
        and all(entry["cloudstack"]["state"] == "Running" for entry in vms)
        and all(len(entry["cloudstack"]["volumes"]) == len(entry["disks"]) for entry in vms)
    )
    return {"proven": proven, "run_exit_code": exit_code, "vms": vms}
