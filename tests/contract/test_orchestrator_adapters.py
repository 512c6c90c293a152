"""The orchestrator's adapters against agents that answer with messages of the contract."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import grpc
import pytest

from services.kit.failure import Code, Failure
from services.orchestrator.adapters.caller import Caller
from services.orchestrator.adapters.cloudstack import CloudstackAgent
from services.orchestrator.adapters.disk import DiskAgent
from services.orchestrator.adapters.vmware import VmwareAgent
from services.orchestrator.ports.cloudstack import JobState
from services.orchestrator.ports.disk import Pool, ReachedPool, WorkState
from services.orchestrator.ports.vmware import Firmware, PowerState, Severity
from v2c.cloudstack.v1 import cloudstack_pb2 as cloudstack_pb
from v2c.cloudstack.v1 import cloudstack_pb2_grpc as cloudstack_rpc
from v2c.disk.v1 import disk_pb2 as disk_pb
from v2c.disk.v1 import disk_pb2_grpc as disk_rpc
from v2c.vmware.v1 import vmware_pb2 as vmware_pb
from v2c.vmware.v1 import vmware_pb2_grpc as vmware_rpc

_METADATA = {"free_bytes": "512", "needed_bytes": "4096"}
_FAILURE: dict[str, Any] = {
    "reason": "TARGET_FULL",
    "code": "RESOURCE_EXHAUSTED",
    "message": "full",
    "hint": "make room",
    "retryable": True,
    "metadata": _METADATA,
}
_REPORTED = Failure("TARGET_FULL", "full", Code.RESOURCE_EXHAUSTED, "make room", True, _METADATA)


class _Disk(disk_rpc.DiskServiceServicer):
    released: ClassVar[list[str]] = []

    def GetTransfer(self, request: Any, context: Any) -> Any:
        if request.transfer_id == "fine":
            transfer = disk_pb.Transfer(state=disk_pb.TRANSFER_STATE_SUCCEEDED)
        else:
            failure = disk_pb.Failure(**_FAILURE)
            transfer = disk_pb.Transfer(state=disk_pb.TRANSFER_STATE_FAILED, failure=failure)
        return disk_pb.GetTransferResponse(transfer=transfer)

    def GetConversion(self, request: Any, context: Any) -> Any:
        conversion = disk_pb.Conversion(
            state=disk_pb.CONVERSION_STATE_FAILED, failure=disk_pb.Failure(**_FAILURE)
        )
        return disk_pb.GetConversionResponse(conversion=conversion)

    def EnsurePool(self, request: Any, context: Any) -> Any:
        assert request.pool.type == disk_pb.POOL_TYPE_NETWORK_FILESYSTEM
        pool = disk_pb.Pool(path="/mnt/p1", mounted_by_agent=True)
        return disk_pb.EnsurePoolResponse(pool=pool)

    def ReleasePool(self, request: Any, context: Any) -> Any:
        self.released.append(request.id)
        return disk_pb.ReleasePoolResponse()


class _Cloudstack(cloudstack_rpc.CloudstackServiceServicer):
    def GetJob(self, request: Any, context: Any) -> Any:
        failure = cloudstack_pb.Failure(**_FAILURE)
        job = cloudstack_pb.Job(state=cloudstack_pb.JOB_STATE_FAILED, failure=failure)
        return cloudstack_pb.GetJobResponse(job=job)


class _Vmware(vmware_rpc.VmwareServiceServicer):
    def GetVm(self, request: Any, context: Any) -> Any:
        vm = vmware_pb.Vm(power_state=vmware_pb.POWER_STATE_SUSPENDED)
        return vmware_pb.GetVmResponse(vm=vm)

    def CheckVm(self, request: Any, context: Any) -> Any:
        findings = [vmware_pb.Finding(name="cbt", severity=vmware_pb.SEVERITY_WARNING)]
        return vmware_pb.CheckVmResponse(findings=findings)


@pytest.fixture
def caller(tmp_path: Path) -> Iterator[Caller]:
    address = f"unix:{tmp_path}/agents.sock"
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        # Only the calls that are made here are answered.
        disk_rpc.add_DiskServiceServicer_to_server(_Disk(), server)  # type: ignore[abstract]
        cloudstack_rpc.add_CloudstackServiceServicer_to_server(_Cloudstack(), server)  # type: ignore[abstract]
        vmware_rpc.add_VmwareServiceServicer_to_server(_Vmware(), server)  # type: ignore[abstract]
        server.add_insecure_port(address)
        server.start()
        caller = Caller(address, None, "agent")
        try:
            yield caller
        finally:
            caller.close()
            server.stop(None).wait()


def test_a_failure_is_taken_whole_from_each_agents_message(caller: Caller) -> None:
    transfer = DiskAgent(caller).get_transfer("t1")
    assert (transfer.state, transfer.failure) == (WorkState.FAILED, _REPORTED)
    conversion = DiskAgent(caller).get_conversion("c1")
    assert (conversion.state, conversion.failure) == (WorkState.FAILED, _REPORTED)
    job = CloudstackAgent(caller).get_job("j1")
    assert (job.state, job.failure) == (JobState.FAILED, _REPORTED)


def test_what_did_not_fail_has_no_failure(caller: Caller) -> None:
    transfer = DiskAgent(caller).get_transfer("fine")
    assert (transfer.state, transfer.failure) == (WorkState.SUCCEEDED, None)


def test_names_of_the_contract_become_members_of_the_port(caller: Caller) -> None:
    vm = VmwareAgent(caller).get_vm(moref="vm-1")
    assert (vm.power, vm.firmware) == (PowerState.SUSPENDED, Firmware.UNSPECIFIED)
    (finding,) = VmwareAgent(caller).check_vm("vm-1")
    assert finding.severity is Severity.WARNING


def test_a_pool_is_reached_and_released_by_cloudstacks_id(caller: Caller) -> None:
    pool = Pool("pool-1", "primary", "NetworkFilesystem", "filer:/p1", "/mnt/p1")
    assert DiskAgent(caller).ensure_pool(pool) == ReachedPool("/mnt/p1", mounted_by_agent=True)
    DiskAgent(caller).release_pool("pool-1")
    assert _Disk.released == ["pool-1"]
