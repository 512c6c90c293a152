"""The three agents' ports, bundled."""

from dataclasses import dataclass

from services.orchestrator.ports.cloudstack import CloudstackPort
from services.orchestrator.ports.disk import DiskPort
from services.orchestrator.ports.vmware import VmwarePort


@dataclass(frozen=True)
class Agents:
    """One port per agent."""

    vmware: VmwarePort
    disk: DiskPort
    cloudstack: CloudstackPort
