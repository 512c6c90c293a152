from typing import Any

import pytest

from services.vmware_agent.cbt import enable_tracking
from services.vmware_agent.errors import (
    CbtUnsupported,
    ToolsNotRunning,
    VCenterBusy,
    WrongPowerState,
)
from services.vmware_agent.findings import Severity
from services.vmware_agent.power import power_off, power_on, shutdown_guest
from services.vmware_agent.preflight import check_vm
from services.vmware_agent.vm import DiskObstacle, PowerState
from tests.rigs.fakes.vcenter import FakeClock, MemoryVCenter, disk, snapshot, vm


async def test_tracking_is_enabled_for_the_vm_and_every_disk() -> None:
    vcenter = MemoryVCenter(vm(disks=(disk(2000), disk(2001))))
    assert await enable_tracking(vcenter, FakeClock(), "vm-1", 60)
    assert vcenter.called("set_tracking") == [("vm-1", ("scsi0:0", "scsi0:1"))]
    assert not await enable_tracking(vcenter, FakeClock(), "vm-1", 60), "nothing left to do"


async def test_one_disk_switched_off_in_a_tracked_vm_is_noticed() -> None:
    disks = (disk(2000, tracking_enabled=True), disk(2001, tracking_enabled=False))
    vcenter = MemoryVCenter(vm(tracking_enabled=True, disks=disks))
    assert await enable_tracking(vcenter, FakeClock(), "vm-1", 60)
    assert vcenter.called("set_tracking") == [("vm-1", ("scsi0:1",))]


async def test_a_disk_that_stays_off_is_an_error_not_a_slow_cutover() -> None:
    vcenter = MemoryVCenter(vm(disks=(disk(2000), disk(2001))))
    vcenter.ignores_tracking_of = {"scsi0:1"}
    with pytest.raises(CbtUnsupported, match=r"still off for Hard disk 2 \(scsi0:1\)"):
        await enable_tracking(vcenter, FakeClock(), "vm-1", 60)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"hardware_version": 4}, "version 4"),
        ({"tracking_supported": False}, "does not support"),
        (
            {"disks": (disk(), disk(2001, obstacles=(DiskObstacle.INDEPENDENT,)))},
            r"Hard disk 2 \(scsi0:1\) is independent",
        ),
        ({"disks": (disk(obstacles=(DiskObstacle.PHYSICAL_RDM,)),)}, "raw device mapping"),
        ({"disks": (disk(obstacles=(DiskObstacle.SHARED_BUS,)),)}, "bus sharing"),
    ],
)
async def test_what_cannot_be_tracked_is_named(changes: dict[str, Any], expected: str) -> None:
    vcenter = MemoryVCenter(vm(**changes))
    with pytest.raises(CbtUnsupported, match=expected):
        await enable_tracking(vcenter, FakeClock(), "vm-1", 60)
    assert not vcenter.called("set_tracking")


async def test_enabling_waits_for_other_tasks() -> None:
    vcenter, clock = MemoryVCenter(vm()), FakeClock()
    vcenter.fail("set_tracking", VCenterBusy(message="busy"), VCenterBusy(message="busy"))
    assert await enable_tracking(vcenter, clock, "vm-1", 60)
    assert clock.sleeps == [0.5, 1.0]


async def test_power_changes_are_idempotent() -> None:
    vcenter, clock = MemoryVCenter(vm()), FakeClock()
    await power_off(vcenter, clock, "vm-1", 60)
    await power_off(vcenter, clock, "vm-1", 60)
    await power_on(vcenter, clock, "vm-1", 60)
    await power_on(vcenter, clock, "vm-1", 60)
    assert len(vcenter.called("power_off")) == len(vcenter.called("power_on")) == 1
    assert vcenter.vms["vm-1"].power is PowerState.ON


async def test_power_off_while_the_guest_goes_down_by_itself() -> None:
    vcenter, clock = MemoryVCenter(vm()), FakeClock()

    def went_off_meanwhile() -> None:
        vcenter.change("vm-1", power=PowerState.OFF)

    vcenter.fail("power_off", VCenterBusy(message="shutting down"), went_off_meanwhile)
    await power_off(vcenter, clock, "vm-1", 60)
    assert vcenter.vms["vm-1"].power is PowerState.OFF


async def test_guest_shutdown_needs_tools() -> None:
    vcenter = MemoryVCenter(vm(tools_running=False))
    with pytest.raises(ToolsNotRunning) as caught:
        await shutdown_guest(vcenter, "vm-1")
    assert "power the VM off" in caught.value.hint


async def test_guest_shutdown_of_a_vm_that_is_off_is_done_already() -> None:
    vcenter = MemoryVCenter(vm(power=PowerState.OFF, tools_running=False))
    await shutdown_guest(vcenter, "vm-1")
    assert not vcenter.called("shutdown_guest")


async def test_a_suspended_guest_cannot_shut_down() -> None:
    with pytest.raises(WrongPowerState, match="suspended"):
        await shutdown_guest(MemoryVCenter(vm(power=PowerState.SUSPENDED)), "vm-1")


def test_a_plain_vm_has_no_findings() -> None:
    assert check_vm(vm()) == ()


@pytest.mark.parametrize(
    ("changes", "name", "severity"),
    [
        ({"tools_running": False}, "TOOLS_NOT_RUNNING", Severity.WARNING),
        ({"tracking_supported": False}, "CBT_UNSUPPORTED", Severity.ERROR),
        ({"hardware_version": 4}, "HARDWARE_TOO_OLD", Severity.ERROR),
        ({"snapshots": (snapshot("manual"),)}, "EXISTING_SNAPSHOTS", Severity.WARNING),
        ({"snapshots": (snapshot("v2c-x"),)}, "OUR_SNAPSHOTS", Severity.WARNING),
        ({"snapshots": (snapshot("m"),) * 31}, "TOO_MANY_SNAPSHOTS", Severity.ERROR),
        ({"consolidation_needed": True}, "CONSOLIDATION_NEEDED", Severity.WARNING),
        ({"has_vtpm": True}, "VTPM", Severity.WARNING),
        ({"encrypted": True}, "ENCRYPTED", Severity.WARNING),
        ({"template": True}, "TEMPLATE", Severity.ERROR),
        ({"disks": ()}, "NO_DISKS", Severity.ERROR),
        ({"power": PowerState.SUSPENDED}, "SUSPENDED", Severity.ERROR),
        ({"passthrough_devices": ("PCI device 0",)}, "PASSTHROUGH_DEVICE", Severity.WARNING),
        (
            {"disks": (disk(obstacles=(DiskObstacle.MULTI_WRITER,)),)},
            "DISK_MULTI_WRITER",
            Severity.ERROR,
        ),
        (
            {"tracking_enabled": True, "disks": (disk(tracking_enabled=False),)},
            "DISK_TRACKING_OFF",
            Severity.INFO,
        ),
    ],
)
def test_findings(changes: dict[str, Any], name: str, severity: Severity) -> None:
    (finding,) = check_vm(vm(**changes))
    assert (finding.kind.name, finding.kind.severity) == (name, severity)
    assert finding.message.endswith(".")
    assert finding.kind.hint.endswith(".")


@pytest.mark.parametrize("obstacle", DiskObstacle)
def test_every_obstacle_of_a_disk_is_a_finding_of_its_own(obstacle: DiskObstacle) -> None:
    (finding,) = check_vm(vm(disks=(disk(obstacles=(obstacle,)),)))
    assert finding.kind.severity is Severity.ERROR
    assert finding.kind.meaning == f"A disk {obstacle.value}."
    assert obstacle.value in finding.message


def test_findings_come_worst_first() -> None:
    found = check_vm(vm(has_vtpm=True, template=True, tools_running=False))
    assert [one.kind.severity for one in found] == [
        Severity.ERROR,
        Severity.WARNING,
        Severity.WARNING,
    ]
