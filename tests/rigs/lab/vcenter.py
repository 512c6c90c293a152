"""A vCenter simulator in a process of its own, and an unmodified pyVmomi client of it."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyVim.connect import Disconnect, SmartConnect
from pyVim.task import WaitForTask
from pyVmomi import vim, vmodl
from pyVmomi.SoapAdapter import SoapStubAdapter

from lab.control import ControlClient, ControlError
from lab.scenario import (
    DEFAULT_USERS,
    MIB,
    ClusterSpec,
    DatacenterSpec,
    DatastoreSpec,
    DiskSpec,
    NetworkSpec,
    NicSpec,
    Scenario,
    UserSpec,
    VmSpec,
)
from lab.vcenter.startup import write_scenario

PC = vmodl.query.PropertyCollector
_START_SECONDS = 20.0


def one_datacenter(*vms: VmSpec) -> Scenario:
    """A small place for the VMs of a test."""
    return Scenario(
        "test",
        (
            DatacenterSpec(
                "DC",
                clusters=(ClusterSpec("C", ("esxi-1", "esxi-2")),),
                datastores=(DatastoreSpec("ds one"),),
                networks=(NetworkSpec("VM Network"), NetworkSpec("dv", distributed=True)),
                vms=vms,
            ),
        ),
    )


def vm(name: str, **changes: Any) -> VmSpec:
    """A VM with one disk without content."""
    defaults: dict[str, Any] = {
        "disks": (DiskSpec(8 * MIB),),
        "nics": (NicSpec("VM Network"),),
    }
    return VmSpec(name, **{**defaults, **changes})


@dataclass
class Vcenter:
    """The way to a simulator, whoever runs it."""

    directory: Path
    port: int

    @property
    def control(self) -> ControlClient:
        return ControlClient(self.directory / "vcenter" / "control.sock")

    @contextmanager
    def client(self, user: UserSpec = DEFAULT_USERS[0]) -> Iterator[Any]:
        """A logged-in service instance, the certificate verified."""
        instance = self.connect(user.name, user.password)
        try:
            yield instance
        finally:
            Disconnect(instance)

    def connect(self, user: str, password: str) -> Any:
        context = ssl.create_default_context(cafile=self.directory / "vcenter" / "ca.pem")
        return SmartConnect(
            host="127.0.0.1", port=self.port, user=user, pwd=password, sslContext=context
        )

    @contextmanager
    def anonymous(self) -> Iterator[Any]:
        """A service instance before login. (SmartConnect leaks its socket if a login fails.)"""
        context = ssl.create_default_context(cafile=self.directory / "vcenter" / "ca.pem")
        stub = SoapStubAdapter(
            host="127.0.0.1", port=self.port, sslContext=context, version="vim.version.v8_0_3_0"
        )
        try:
            yield vim.ServiceInstance("ServiceInstance", stub)
        finally:
            stub.DropConnections()


@dataclass
class Simulator(Vcenter):
    """A running ``python -m lab.vcenter``."""

    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(15)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(15)


def start(directory: Path) -> Simulator:
    """Start the simulator on a directory that has a scenario."""
    control = directory / "vcenter" / "control.sock"
    control.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "lab.vcenter", "--dir", str(directory), "--port", "0"],
        stdin=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(control):
        assert process.poll() is None, "the simulator died at start"
        assert time.monotonic() < deadline, "the simulator does not start"
        time.sleep(0.02)
    _host, port = json.loads((directory / "vcenter" / "address.json").read_text())
    return Simulator(directory, port, process)


def _answers(control: Path) -> bool:
    try:
        ControlClient(control, timeout_seconds=1).call("status")
    except ControlError as error:
        if error.kind == "unreachable":
            return False
        raise
    return True


@contextmanager
def running(directory: Path, scenario: Scenario) -> Iterator[Simulator]:
    """A simulator of that scenario for the time of the block."""
    write_scenario(directory, scenario)
    simulator = start(directory)
    try:
        yield simulator
    finally:
        simulator.stop()


def find(instance: Any, name: str) -> Any:
    """The only VM of that name."""
    (found,) = [item.obj for item in retrieve(instance, ["name"]) if values(item)["name"] == name]
    return found


def retrieve(
    instance: Any,
    paths: list[str],
    kind: type = vim.VirtualMachine,
    page: int = 100,
) -> list[Any]:
    """ObjectContents of all objects of a kind, read page by page."""
    content = instance.content
    view = content.viewManager.CreateContainerView(content.rootFolder, [kind], True)
    collector = content.propertyCollector
    options = PC.RetrieveOptions(maxObjects=page)
    result = collector.RetrievePropertiesEx([view_filter(view, paths, kind)], options)
    objects = []
    while result is not None:
        assert len(result.objects) <= page
        objects += result.objects
        if not result.token:
            break
        result = collector.ContinueRetrievePropertiesEx(result.token)
    view.Destroy()
    return objects


def view_filter(view: Any, paths: list[str], kind: type = vim.VirtualMachine) -> Any:
    """The filter everybody uses to read what is in a view."""
    traversal = PC.TraversalSpec(name="view", type=vim.view.ContainerView, path="view", skip=False)
    return PC.FilterSpec(
        objectSet=[PC.ObjectSpec(obj=view, skip=True, selectSet=[traversal])],
        propSet=[PC.PropertySpec(type=kind, pathSet=paths)],
    )


def values(item: Any) -> dict[str, Any]:
    """Properties of an ObjectContent by path."""
    return {prop.name: prop.val for prop in item.propSet}


def wait(task: Any) -> Any:
    """The task's result. Raises its error."""
    WaitForTask(task)
    return task.info.result


def disks(holder: Any) -> list[Any]:
    """Disks of a VM's or snapshot's configuration."""
    return [d for d in holder.config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)]


def until(condition: Any, seconds: float = 10.0) -> None:
    """Wait for a condition that the simulator brings about by itself."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
