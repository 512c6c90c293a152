"""The state of vCenter and CloudStack after the migrations, read through their APIs."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import Any

from pyVmomi import vim

from lab.cloudstack.signature import compute
from lab.stack import Lab
from lab.vcenter_login import vcenter_login

_VALID = timedelta(minutes=5)


def vcenter_view(lab: Lab, names: list[str]) -> dict[str, dict[str, Any]]:
    """Power state and snapshots of VMs, by name."""
    with vcenter_login(lab) as service:
        content = service.RetrieveContent()
        view = content.viewManager.CreateContainerView(
            content.rootFolder, [vim.VirtualMachine], recursive=True
        )
        return {
            vm.name: {
                "power": str(vm.runtime.powerState),
                "snapshots": [s.name for s in vm.snapshot.rootSnapshotList] if vm.snapshot else [],
            }
            for vm in view.view
            if vm.name in names
        }


def cloudstack_view(lab: Lab, vm_id: str) -> dict[str, Any]:
    """A VM with its volumes and adapters."""
    machine = _call(lab, "listVirtualMachines", id=vm_id)["virtualmachine"][0]
    volumes = _call(lab, "listVolumes", virtualmachineid=vm_id).get("volume", [])
    return {
        "id": machine["id"],
        "name": machine["name"],
        "displayname": machine["displayname"],
        "state": machine["state"],
        "volumes": [
            {key: volume.get(key) for key in ("name", "type", "state", "path", "size", "deviceid")}
            for volume in volumes
        ],
        "nics": [
            {key: nic.get(key) for key in ("networkname", "macaddress", "ipaddress", "isdefault")}
            for nic in machine["nic"]
        ],
    }


def _call(lab: Lab, command: str, **parameters: str) -> dict[str, Any]:
    cloudstack = lab.info["cloudstack"]
    query = {
        "command": command,
        "response": "json",
        "listall": "true",
        "apiKey": cloudstack["api_key"],
        "signatureVersion": "3",
        "expires": (datetime.now(UTC) + _VALID).strftime("%Y-%m-%dT%H:%M:%S+0000"),
        **parameters,
    }
    query["signature"] = compute(query, cloudstack["secret_key"])
    body = urllib.parse.urlencode(query).encode()
    with urllib.request.urlopen(cloudstack["endpoint"], body, timeout=30) as answer:  # noqa: S310
        response: dict[str, Any] = json.load(answer)[f"{command.lower()}response"]
        return response
