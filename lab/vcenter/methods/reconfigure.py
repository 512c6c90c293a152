"""ReconfigVM, and the calls that rename, delete or unregister a VM."""

from __future__ import annotations

from pyVmomi import vim, vmodl

from lab.vcenter.methods.calls import Call, Methods
from lab.vcenter.methods.power import invalid_power_state
from lab.vcenter.properties.vms import tracking_supported
from lab.vcenter.world.vm_state import DiskRecord, VmRecord
from lab.vcenter.world.world import POWERED_OFF, World

METHODS = Methods()

_KNOWN = {
    "changeVersion",
    "changeTrackingEnabled",
    "extraConfig",
    "name",
    "annotation",
    "numCPUs",
    "memoryMB",
    "deviceChange",
}


@METHODS.handle("ReconfigVM_Task")
def _reconfigure(call: Call) -> vim.Task:
    record, world, spec = call.vm, call.world, call.params.spec
    return call.tasks.run(
        call.method,
        record,
        call.user,
        lambda: reconfigure(world, record, spec),
    )


def reconfigure(world: World, record: VmRecord, spec: vim.vm.ConfigSpec) -> None:
    """Apply a ConfigSpec. Raises NotSupported for what the lab does not simulate.

    Switching CBT on sets ``ctkEnabled`` for the VM and, as vCenter does, for each disk that the
    spec does not name. It takes effect later (see lab.vcenter.methods.tracking).
    """
    unknown = [
        p.name
        for p in spec._GetPropertyList()
        if p.name not in _KNOWN and getattr(spec, p.name) not in (None, [], ())
    ]
    if unknown:
        raise vmodl.fault.NotSupported(msg=f"The lab cannot change {', '.join(unknown)}")
    resizes = [_resize(record, change) for change in spec.deviceChange]
    for disk, capacity in resizes:
        world.disks.resize_disk(record.moref, disk.key, capacity)
    with world.change(record):
        for disk, capacity in resizes:
            disk.capacity_bytes = capacity
        _set_tracking(record, spec)
        _set_extra_config(record, spec.extraConfig)
        if spec.name:
            _rename(world, record, spec.name)
        record.annotation = record.annotation if spec.annotation is None else spec.annotation
        record.cpus = spec.numCPUs or record.cpus
        record.memory_mib = spec.memoryMB or record.memory_mib


def _set_tracking(record: VmRecord, spec: vim.vm.ConfigSpec) -> None:
    wanted = spec.changeTrackingEnabled
    if wanted is None:
        return
    if wanted and not tracking_supported(record):
        raise vmodl.fault.NotSupported(
            msg=f"Changed block tracking needs hardware version 7, this is "
            f"{record.spec.hardware_version}"
        )
    if wanted and not record.change_tracking:
        for disk in record.disks:
            if disk.spec.trackable:
                _set_extra_config(record, [_option(f"{disk.slot}.ctkEnabled", "TRUE")])
    _set_extra_config(record, [_option("ctkEnabled", str(wanted).upper())])


def _set_extra_config(record: VmRecord, options: list[vim.option.OptionValue]) -> None:
    """Set VMX keys, or with an empty value remove them; the case of keys is ignored."""
    for option in options:
        same = [key for key in record.extra_config if key.lower() == option.key.lower()]
        for key in same:
            del record.extra_config[key]
        if option.value not in (None, ""):
            record.extra_config[same[0] if same else option.key] = str(option.value)
        if option.key.lower() == "ctkenabled":
            record.change_tracking = str(option.value).lower() == "true"


def _option(key: str, value: str) -> vim.option.OptionValue:
    return vim.option.OptionValue(key=key, value=value)


def _resize(record: VmRecord, change: vim.vm.device.VirtualDeviceSpec) -> tuple[DiskRecord, int]:
    device = change.device
    if change.operation != "edit" or not isinstance(device, vim.vm.device.VirtualDisk):
        raise vmodl.fault.NotSupported(msg="The lab can only edit the capacity of disks")
    disk = record.disk(device.key)
    if disk is None:
        raise vim.fault.InvalidDeviceSpec(
            property="deviceChange", deviceIndex=0, msg=f"No device {device.key}"
        )
    capacity = device.capacityInBytes or device.capacityInKB * 1024
    if capacity < disk.capacity_bytes or record.snapshots:
        raise vim.fault.InvalidDeviceOperation(
            property="deviceChange",
            deviceIndex=0,
            badOp="edit",
            msg="A disk can only grow, and only without snapshots",
        )
    return disk, capacity


@METHODS.handle("Rename_Task")
def _rename_task(call: Call) -> vim.Task:
    record, world, name = call.vm, call.world, call.params.newName

    def effect() -> None:
        with world.change(record):
            _rename(world, record, name)

    return call.tasks.run(call.method, record, call.user, effect)


def _rename(world: World, record: VmRecord, name: str) -> None:
    record.name = name
    entity = world.inventory.get(record.moref)
    if entity is not None:
        entity.name = name


@METHODS.handle("Destroy_Task")
def _destroy(call: Call) -> vim.Task:
    record, world = call.vm, call.world

    def effect() -> None:
        if record.power != POWERED_OFF:
            raise invalid_power_state(record, POWERED_OFF)
        for disk in record.disks:
            world.disks.remove_disk(record.moref, disk.key)
        world.delete_vm(record)

    return call.tasks.run(call.method, record, call.user, effect)


@METHODS.handle("UnregisterVM")
def _unregister(call: Call) -> None:
    record = call.vm
    if record.power != POWERED_OFF:
        raise invalid_power_state(record, POWERED_OFF)
    call.world.delete_vm(record)
