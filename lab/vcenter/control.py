"""The control socket's operations: faults, settings, expiry of sessions, reading the state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from lab.control import ControlError, Handler
from lab.esxi.model import EsxiError
from lab.vcenter.methods import power
from lab.vcenter.methods.tasks import Tasks
from lab.vcenter.world import settings
from lab.vcenter.world.faults import Injector, RuleError
from lab.vcenter.world.sessions import Sessions
from lab.vcenter.world.settings import SettingError, as_dict
from lab.vcenter.world.vm_state import VmRecord
from lab.vcenter.world.world import POWERED_OFF, POWERED_ON, World


def handlers(
    world: World, tasks: Tasks, sessions: Sessions, injector: Injector, stop: Callable[[], None]
) -> Mapping[str, Handler]:
    """The operations by name. They raise ControlErrors of kind ``invalid`` or ``not_found``."""
    control = _Control(world, tasks, sessions, injector, stop)
    return {
        "fault": control.fault,
        "clear_faults": control.clear_faults,
        "faults": control.faults,
        "expire_sessions": control.expire_sessions,
        "set": control.set,
        "reset_cbt": control.reset_cbt,
        "power_loss": control.power_loss,
        "start_guests": control.start_guests,
        "status": control.status,
        "vm": control.vm,
        "vms": control.vms,
        "stop": control.stop,
    }


class _Control:
    def __init__(
        self,
        world: World,
        tasks: Tasks,
        sessions: Sessions,
        injector: Injector,
        stop: Callable[[], None],
    ) -> None:
        self._world = world
        self._tasks = tasks
        self._sessions = sessions
        self._injector = injector
        self._stop = stop

    def fault(
        self,
        method: str,
        fault: str = "",
        vm: str = "",
        count: int = 1,
        skip: int = 0,
        delay_seconds: float = 0.0,
        when: str = "before",
        message: str = "",
    ) -> dict[str, object]:
        """Add a rule that makes ``count`` calls of a method fail or late; returns its number."""
        if when not in ("before", "after"):
            raise ControlError("invalid", f"when is before or after, not {when!r}")
        moref = self._record(vm).moref if vm else ""
        try:
            rule = self._injector.add(
                method,
                fault,
                vm=moref,
                count=int(count),
                skip=int(skip),
                delay_seconds=float(delay_seconds),
                after=when == "after",
                message=str(message),
            )
        except (RuleError, ValueError) as error:
            raise ControlError("invalid", str(error)) from error
        return {"rule": asdict(rule)}

    def clear_faults(self, number: int | None = None) -> dict[str, object]:
        """Remove one rule, or all."""
        try:
            return {"cleared": self._injector.clear(number)}
        except RuleError as error:
            raise ControlError("not_found", str(error)) from error

    def faults(self) -> dict[str, object]:
        """The active rules."""
        return {"faults": [asdict(rule) for rule in self._injector.all()]}

    def expire_sessions(self) -> dict[str, object]:
        """End every login session now."""
        return {"expired": self._sessions.expire_all()}

    def set(self, vm: str = "", **values: Any) -> dict[str, object]:
        """Change settings of the VM ``vm``, or if it is "" of the vCenter."""
        try:
            if vm:
                record = self._record(vm)
                for name, value in values.items():
                    settings.check_vm_setting(name, str(value))
                with self._world.change(record):
                    record.settings.update({n: str(v) for n, v in values.items()})
                return {"settings": dict(record.settings)}
            for name, value in values.items():
                settings.change(self._world.settings, name, value)
        except SettingError as error:
            raise ControlError("invalid", str(error)) from error
        return {"settings": as_dict(self._world.settings)}

    def reset_cbt(self, vm: str, disk: int | None = None) -> dict[str, object]:
        """Reset tracking on one disk (device key) or all, as a power loss does."""
        record = self._record(vm)
        keys = [d.key for d in record.disks if d.tracked] if disk is None else [int(disk)]
        for key in keys:
            if record.disk(key) is None:
                known = ", ".join(str(d.key) for d in record.disks)
                raise ControlError("not_found", f"{record.name} has no disk {key}, only {known}")
            try:
                self._world.disks.reset_tracking(record.moref, key)
            except EsxiError as error:
                raise ControlError(error.kind, error.message) from error
        return {"disks": keys}

    def power_loss(self, vm: str) -> None:
        """Switch a VM off as a host failure does: without a flush, and with CBT reset."""
        record = self._record(vm)
        try:
            power.lose_power(self._world, record)
        except EsxiError as error:
            raise ControlError(error.kind, error.message) from error

    def start_guests(self) -> None:
        """Start guests of powered-on VMs that ended because their disks' server was restarted."""
        for record in list(self._world.vms.values()):
            if record.power == POWERED_ON:
                self._world.guests.start(record.moref)

    def status(self) -> dict[str, object]:
        """Counts and settings."""
        with self._world.changed:
            records = list(self._world.vms.values())
            running = [task for task in self._tasks.recent() if task.completed is None]
        return {
            "scenario": self._world.inventory.scenario.name,
            "vms": len(records),
            "powered_on": sum(r.power != POWERED_OFF for r in records),
            "snapshots": sum(len(r.snapshots) for r in records),
            "consolidation_needed": [r.name for r in records if r.unconsolidated],
            "sessions": len(self._sessions.all()),
            "running_tasks": [f"{t.method} {t.entity_name}" for t in running],
            "faults": len(self._injector.all()),
            "settings": as_dict(self._world.settings),
        }

    def vm(self, vm: str) -> dict[str, object]:
        """The state of one VM, named by its moref or by a name that is unique."""
        with self._world.changed:
            return _details(self._record(vm))

    def vms(self) -> dict[str, object]:
        """The state of all VMs, in the scenario's order."""
        with self._world.changed:
            return {"vms": [_details(record) for record in self._world.vms.values()]}

    def stop(self) -> None:
        """End the simulator; guests keep running."""
        self._stop()

    def _record(self, name: str) -> VmRecord:
        record = self._world.vms.get(name)
        if record is not None:
            return record
        found = [r for r in self._world.vms.values() if r.name == name]
        if len(found) == 1:
            return found[0]
        names = sorted({r.name for r in self._world.vms.values()})
        if not found:
            raise ControlError("not_found", settings.unknown("VM", name, names))
        raise ControlError(
            "invalid", f"{name!r} is ambiguous, use one of {', '.join(r.moref for r in found)}"
        )


def _details(record: VmRecord) -> dict[str, object]:
    return {
        "name": record.name,
        "moref": record.moref,
        "uuid": record.uuid,
        "instance_uuid": record.instance_uuid,
        "power": record.power,
        "change_tracking": record.change_tracking,
        "consolidation_needed": bool(record.unconsolidated),
        "busy": record.busy,
        "settings": record.settings,
        "extra_config": record.extra_config,
        "disks": [
            {
                "key": disk.key,
                "unit": disk.unit,
                "slot": disk.slot,
                "path": disk.path,
                "export": f"{record.moref}/{disk.key}",
                "capacity_bytes": disk.capacity_bytes,
                "tracked": disk.tracked,
                "content": disk.spec.content.value,
                "write_area": disk.write_area,
            }
            for disk in record.disks
        ],
        "nics": [
            {"key": 4000 + index, "network": nic.network, "adapter": nic.adapter, "mac": mac}
            for index, (nic, mac) in enumerate(zip(record.spec.nics, record.macs, strict=True))
        ],
        "snapshots": [
            {"moref": s.moref, "name": s.name, "created": s.created.isoformat()}
            for s in record.snapshots
        ],
    }
