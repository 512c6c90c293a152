"""VmwareService: translates between the proto's messages and the domain."""

import base64
import binascii
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeAlias

import grpc

from services.vmware_agent import cbt, power, snapshots
from services.vmware_agent.changed_areas import Progress, stream_changed_areas
from services.vmware_agent.errors import InvalidQuery
from services.vmware_agent.findings import Severity
from services.vmware_agent.ports import Clock, VCenter
from services.vmware_agent.preflight import check_vm
from services.vmware_agent.snapshots import Quiesce
from services.vmware_agent.vm import Disk, Firmware, Nic, PowerState, Vm
from services.vmware_agent.vm_search import find_vm, list_vms
from v2c.vmware.v1 import vmware_pb2 as pb
from v2c.vmware.v1 import vmware_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

# The domain's deadline is earlier by this, so that the answer with the reason is not too late.
_ANSWER_SECONDS = 0.5
# Keeps a message far below gRPC's size limit: an area takes at most 22 bytes.
_AREAS_PER_MESSAGE = 10_000

_POWER_STATES = {
    PowerState.ON: pb.POWER_STATE_ON,
    PowerState.OFF: pb.POWER_STATE_OFF,
    PowerState.SUSPENDED: pb.POWER_STATE_SUSPENDED,
}
_FIRMWARE = {Firmware.BIOS: pb.FIRMWARE_BIOS, Firmware.EFI: pb.FIRMWARE_UEFI}
_SEVERITIES = {
    Severity.INFO: pb.SEVERITY_INFO,
    Severity.WARNING: pb.SEVERITY_WARNING,
    Severity.ERROR: pb.SEVERITY_ERROR,
}
_QUIESCE = {
    pb.QUIESCE_UNSPECIFIED: Quiesce.AUTO,
    pb.QUIESCE_AUTO: Quiesce.AUTO,
    pb.QUIESCE_REQUIRED: Quiesce.REQUIRED,
    pb.QUIESCE_OFF: Quiesce.OFF,
}


class VmwareServicer(vmware_pb2_grpc.VmwareServiceServicer):
    """Serves one vCenter; `host` is its configured address."""

    def __init__(self, vcenter: VCenter, clock: Clock, host: str) -> None:
        self._vcenter = vcenter
        self._clock = clock
        self._host = host

    async def GetEndpoint(
        self, request: pb.GetEndpointRequest, context: Context
    ) -> pb.GetEndpointResponse:
        about = await self._vcenter.about()
        return pb.GetEndpointResponse(
            host=self._host,
            product=about.product,
            api_version=about.api_version,
            instance_uuid=about.instance_uuid,
            thumbprint_sha1=about.thumbprint_sha1,
        )

    async def ListVms(self, request: pb.ListVmsRequest, context: Context) -> pb.ListVmsResponse:
        page = await list_vms(
            self._vcenter,
            text=request.filter,
            page_size=request.page_size,
            after=_position_of(request.page_token),
        )
        return pb.ListVmsResponse(
            vms=[_vm(vm) for vm in page.vms],
            next_page_token=_token_of(page.next_after),
            total_count=page.total_count,
        )

    async def GetVm(self, request: pb.GetVmRequest, context: Context) -> pb.GetVmResponse:
        vm = await find_vm(
            self._vcenter,
            moref=request.moref,
            name=request.name,
            instance_uuid=request.instance_uuid,
        )
        return pb.GetVmResponse(vm=_vm(vm, await self._vcenter.disk_usage(vm.moref)))

    async def CheckVm(self, request: pb.CheckVmRequest, context: Context) -> pb.CheckVmResponse:
        vm = await self._vcenter.get_vm(_given("moref", request.moref))
        return pb.CheckVmResponse(
            findings=[
                pb.Finding(
                    name=finding.kind.name,
                    severity=_SEVERITIES[finding.kind.severity],
                    message=finding.message,
                    hint=finding.kind.hint,
                )
                for finding in check_vm(vm)
            ]
        )

    async def EnableChangeTracking(
        self, request: pb.EnableChangeTrackingRequest, context: Context
    ) -> pb.EnableChangeTrackingResponse:
        changed = await cbt.enable_tracking(
            self._vcenter, self._clock, _given("moref", request.moref), _seconds(context)
        )
        return pb.EnableChangeTrackingResponse(changed=changed)

    async def CreateSnapshot(
        self, request: pb.CreateSnapshotRequest, context: Context
    ) -> pb.CreateSnapshotResponse:
        quiesce = _QUIESCE.get(request.quiesce)
        if quiesce is None:
            raise InvalidQuery(message=f"quiesce {request.quiesce} is not known")
        created = await snapshots.create_snapshot(
            self._vcenter,
            self._clock,
            _given("vm_moref", request.vm_moref),
            request.name,
            description=request.description,
            quiesce=quiesce,
            timeout_seconds=_seconds(context),
        )
        return pb.CreateSnapshotResponse(snapshot=_snapshot(created.view), existed=created.existed)

    async def RemoveSnapshot(
        self, request: pb.RemoveSnapshotRequest, context: Context
    ) -> pb.RemoveSnapshotResponse:
        removed = await snapshots.remove_snapshot(
            self._vcenter,
            self._clock,
            _given("vm_moref", request.vm_moref),
            snapshot_moref=request.snapshot_moref,
            name=request.name,
            timeout_seconds=_seconds(context),
        )
        return pb.RemoveSnapshotResponse(removed=removed)

    async def ListSnapshots(
        self, request: pb.ListSnapshotsRequest, context: Context
    ) -> pb.ListSnapshotsResponse:
        views = await snapshots.list_snapshots(
            self._vcenter, _given("vm_moref", request.vm_moref), request.name_prefix
        )
        return pb.ListSnapshotsResponse(snapshots=[_snapshot(view) for view in views])

    async def StreamChangedAreas(
        self, request: pb.StreamChangedAreasRequest, context: Context
    ) -> AsyncIterator[pb.StreamChangedAreasResponse]:
        progress_stream = stream_changed_areas(
            self._vcenter,
            _given("vm_moref", request.vm_moref),
            _given("snapshot_moref", request.snapshot_moref),
            request.disk_key,
            request.change_id,
        )
        async for progress in progress_stream:
            for message in _messages(progress):
                yield message

    async def GetPower(self, request: pb.GetPowerRequest, context: Context) -> pb.GetPowerResponse:
        vm = await self._vcenter.get_vm(_given("moref", request.moref))
        return pb.GetPowerResponse(
            power_state=_POWER_STATES[vm.power], tools_running=vm.tools_running
        )

    async def ShutdownGuest(
        self, request: pb.ShutdownGuestRequest, context: Context
    ) -> pb.ShutdownGuestResponse:
        await power.shutdown_guest(self._vcenter, _given("moref", request.moref))
        return pb.ShutdownGuestResponse()

    async def PowerOff(self, request: pb.PowerOffRequest, context: Context) -> pb.PowerOffResponse:
        await power.power_off(
            self._vcenter, self._clock, _given("moref", request.moref), _seconds(context)
        )
        return pb.PowerOffResponse()

    async def PowerOn(self, request: pb.PowerOnRequest, context: Context) -> pb.PowerOnResponse:
        await power.power_on(
            self._vcenter, self._clock, _given("moref", request.moref), _seconds(context)
        )
        return pb.PowerOnResponse()


def _given(field: str, value: str) -> str:
    if not value:
        raise InvalidQuery(message=f"{field} is empty")
    return value


def _seconds(context: Context) -> float:
    """The seconds the domain may take. The kit refuses unary calls without a deadline."""
    return max(0.0, (context.time_remaining() or 0.0) - _ANSWER_SECONDS)


def _token_of(position: str | None) -> str:
    return base64.urlsafe_b64encode(position.encode()).decode() if position is not None else ""


def _position_of(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise InvalidQuery(message="page_token is not a token of an earlier page") from error


def _vm(vm: Vm, usage: Mapping[int, int] | None = None) -> pb.Vm:
    return pb.Vm(
        moref=vm.moref,
        instance_uuid=vm.instance_uuid,
        name=vm.name,
        path=vm.path,
        power_state=_POWER_STATES[vm.power],
        tools_running=vm.tools_running,
        guest_id=vm.guest_id,
        guest_full_name=vm.guest_full_name,
        firmware=_FIRMWARE[vm.firmware],
        secure_boot=vm.secure_boot,
        hardware_version=vm.hardware_version,
        cpu_count=vm.cpu_count,
        memory_bytes=vm.memory_bytes,
        change_tracking_enabled=vm.tracking_enabled,
        change_tracking_supported=vm.tracking_supported,
        consolidation_needed=vm.consolidation_needed,
        host=vm.host,
        disks=[_disk(vm, disk, (usage or {}).get(disk.key, 0)) for disk in vm.disks],
        nics=[_nic(nic) for nic in vm.nics],
        snapshot_count=sum(1 for _ in vm.all_snapshots()),
    )


def _disk(vm: Vm, disk: Disk, used_bytes: int) -> pb.Disk:
    return pb.Disk(
        key=disk.key,
        unit=disk.unit,
        label=disk.label,
        controller=disk.controller.model,
        bus=disk.controller.bus,
        path=disk.path,
        capacity_bytes=disk.capacity_bytes,
        change_tracking_enabled=cbt.is_tracked(vm, disk),
        unsupported_reason="; ".join(obstacle.value for obstacle in disk.obstacles),
        slot=disk.address,
        used_bytes=used_bytes,
    )


def _nic(nic: Nic) -> pb.Nic:
    return pb.Nic(
        key=nic.key,
        index=nic.index,
        label=nic.label,
        network=nic.network,
        mac=nic.mac,
        adapter=nic.adapter,
        connected=nic.connected,
    )


def _snapshot(view: snapshots.SnapshotView) -> pb.Snapshot:
    message = pb.Snapshot(
        moref=view.snapshot.moref,
        name=view.snapshot.name,
        quiesced=view.snapshot.quiesced,
        disks=[
            pb.SnapshotDisk(
                key=disk.key,
                path=disk.path,
                change_id=disk.change_id or "",
                capacity_bytes=disk.capacity_bytes,
            )
            for disk in view.disks
        ],
    )
    message.create_time.FromNanoseconds(round(view.snapshot.create_time * 1e9))
    return message


def _messages(progress: Progress) -> list[pb.StreamChangedAreasResponse]:
    """One message, or several for a page with many areas; only the last has the page's coverage."""
    messages = []
    rest = progress.areas
    while True:
        part, rest = rest[:_AREAS_PER_MESSAGE], rest[_AREAS_PER_MESSAGE:]
        messages.append(
            pb.StreamChangedAreasResponse(
                areas=[pb.Area(offset_bytes=area.start, length_bytes=area.length) for area in part],
                covered_bytes=rest[0].start if rest else progress.covered_bytes,
                capacity_bytes=progress.capacity_bytes,
            )
        )
        if not rest:
            return messages
