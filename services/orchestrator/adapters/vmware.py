"""The source over v2c.vmware.v1."""

from collections.abc import Iterator

from services.orchestrator.adapters.caller import SLOW_SECONDS, Caller, member
from services.orchestrator.ports.vmware import (
    Area,
    Finding,
    Firmware,
    PowerState,
    Quiesce,
    Severity,
    SnapshotDisk,
    SourceDisk,
    SourceNic,
    SourceSnapshot,
    SourceVm,
)
from v2c.vmware.v1 import vmware_pb2 as pb
from v2c.vmware.v1 import vmware_pb2_grpc as rpc

__all__ = ["VmwareAgent"]

_QUIESCE = {
    Quiesce.AUTO: pb.QUIESCE_AUTO,
    Quiesce.REQUIRED: pb.QUIESCE_REQUIRED,
    Quiesce.OFF: pb.QUIESCE_OFF,
}


class VmwareAgent:
    """Implements `ports.VmwarePort`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._stub = rpc.VmwareServiceStub(caller.channel)

    def thumbprint(self) -> str:
        """SHA-1 thumbprint of vCenter's certificate, after a login."""
        answer = self._caller.quick(self._stub.GetEndpoint, pb.GetEndpointRequest())
        return answer.thumbprint_sha1

    def list_vms(self, text: str, page_size: int, token: str) -> tuple[tuple[SourceVm, ...], str]:
        """A page of machines, and the next page's token."""
        request = pb.ListVmsRequest(filter=text, page_size=page_size, page_token=token)
        answer = self._caller.quick(self._stub.ListVms, request)
        return tuple(_vm(vm) for vm in answer.vms), answer.next_page_token

    def get_vm(self, *, moref: str = "", name: str = "") -> SourceVm:
        """The one machine with this moref or this name."""
        request = pb.GetVmRequest(moref=moref, name=name)
        return _vm(self._caller.quick(self._stub.GetVm, request).vm)

    def check_vm(self, moref: str) -> tuple[Finding, ...]:
        """The findings that prevent or affect a migration."""
        answer = self._caller.quick(self._stub.CheckVm, pb.CheckVmRequest(moref=moref))
        return tuple(
            Finding(f.name, member(Severity, pb.Severity.Name(f.severity)), f.message, f.hint)
            for f in answer.findings
        )

    def enable_tracking(self, moref: str) -> bool:
        """Switch changed block tracking on; True when it was off."""
        request = pb.EnableChangeTrackingRequest(moref=moref)
        return self._caller.slow(self._stub.EnableChangeTracking, request).changed

    def create_snapshot(self, moref: str, name: str, quiesce: Quiesce) -> SourceSnapshot:
        """Create the snapshot, or return the one of that name."""
        request = pb.CreateSnapshotRequest(
            vm_moref=moref,
            name=name,
            description="v2c reads the disks of this snapshot and removes it afterwards",
            quiesce=_QUIESCE[quiesce],
        )
        snapshot = self._caller.slow(self._stub.CreateSnapshot, request).snapshot
        disks = tuple(
            SnapshotDisk(d.key, d.path, d.change_id, d.capacity_bytes) for d in snapshot.disks
        )
        return SourceSnapshot(snapshot.moref, snapshot.name, disks)

    def remove_snapshot(self, moref: str, name: str) -> bool:
        """Remove the snapshot of that name; False when there is none."""
        request = pb.RemoveSnapshotRequest(vm_moref=moref, name=name)
        return self._caller.slow(self._stub.RemoveSnapshot, request).removed

    def snapshot_names(self, moref: str, prefix: str) -> tuple[str, ...]:
        """Names of the machine's snapshots that start with `prefix`."""
        request = pb.ListSnapshotsRequest(vm_moref=moref, name_prefix=prefix)
        answer = self._caller.quick(self._stub.ListSnapshots, request)
        return tuple(s.name for s in answer.snapshots)

    def changed_areas(
        self, moref: str, snapshot_moref: str, disk_key: int, change_id: str
    ) -> Iterator[Area]:
        """Areas that changed since `change_id`, received page by page."""
        request = pb.StreamChangedAreasRequest(
            vm_moref=moref, snapshot_moref=snapshot_moref, disk_key=disk_key, change_id=change_id
        )
        with self._caller.errors():
            for batch in self._stub.StreamChangedAreas(request, timeout=SLOW_SECONDS):
                for area in batch.areas:
                    yield Area(area.offset_bytes, area.length_bytes)

    def power(self, moref: str) -> tuple[PowerState, bool]:
        """The power state, and whether VMware Tools run."""
        answer = self._caller.quick(self._stub.GetPower, pb.GetPowerRequest(moref=moref))
        return member(PowerState, pb.PowerState.Name(answer.power_state)), answer.tools_running

    def shutdown_guest(self, moref: str) -> None:
        """Ask the guest to shut down."""
        self._caller.quick(self._stub.ShutdownGuest, pb.ShutdownGuestRequest(moref=moref))

    def power_off(self, moref: str) -> None:
        """Power the machine off without asking the guest."""
        self._caller.slow(self._stub.PowerOff, pb.PowerOffRequest(moref=moref))

    def power_on(self, moref: str) -> None:
        """Start the machine."""
        self._caller.slow(self._stub.PowerOn, pb.PowerOnRequest(moref=moref))


def _vm(vm: pb.Vm) -> SourceVm:
    return SourceVm(
        moref=vm.moref,
        instance_uuid=vm.instance_uuid,
        name=vm.name,
        path=vm.path,
        power=member(PowerState, pb.PowerState.Name(vm.power_state)),
        tools_running=vm.tools_running,
        guest=vm.guest_full_name or vm.guest_id,
        firmware=member(Firmware, pb.Firmware.Name(vm.firmware)),
        secure_boot=vm.secure_boot,
        cpu_count=vm.cpu_count,
        memory_bytes=vm.memory_bytes,
        disks=tuple(
            SourceDisk(
                key=d.key,
                unit=d.unit,
                slot=d.slot,
                label=d.label,
                path=d.path,
                capacity_bytes=d.capacity_bytes,
                used_bytes=d.used_bytes,
                unsupported_reason=d.unsupported_reason,
            )
            for d in vm.disks
        ),
        nics=tuple(SourceNic(n.key, n.index, n.label, n.network, n.mac) for n in vm.nics),
    )
