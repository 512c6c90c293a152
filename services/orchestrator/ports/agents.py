"""The three agents together."""

from dataclasses import dataclass

from services.orchestrator.ports.cloudstack import CloudstackPort
from services.orchestrator.ports.disk import DiskPort
from services.orchestrator.ports.vmware import VmwarePort


@dataclass(frozen=True)
class Agents:
    """The three agents."""

    vmware: VmwarePort
    disk: DiskPort
    cloudstack: CloudstackPort
