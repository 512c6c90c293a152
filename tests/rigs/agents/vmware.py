"""The lab's vCenter simulator inside the test's process, and the agent's parts talking to it."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lab.scenario import DEFAULT_USERS, Content, Scenario
from lab.vcenter.certificate import Certificate, ensure_certificate
from lab.vcenter.dispatch import Dispatcher
from lab.vcenter.methods.tasks import Tasks
from lab.vcenter.server import VcenterServer
from lab.vcenter.startup import no_guests, open_world, write_scenario
from lab.vcenter.world.faults import Injector
from lab.vcenter.world.memory_disks import MemoryDisks
from lab.vcenter.world.ports import DiskStore
from lab.vcenter.world.sessions import Sessions
from lab.vcenter.world.vm_state import VmRecord
from lab.vcenter.world.world import World
from services.vmware_agent.ports import Clock, SystemClock
from services.vmware_agent.vcenter.adapter import VmomiVCenter
from services.vmware_agent.vcenter.session import Endpoint, Session
from services.vmware_agent.vcenter.trust import Trust


class QuickClock(SystemClock):
    """Time passes ten times as fast, so that pauses between retries cost tests little."""

    def monotonic(self) -> float:
        return super().monotonic() * 10

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / 10)


@dataclass(frozen=True)
class LabVCenter:
    """A running simulator; a test may reach into its parts."""

    world: World
    sessions: Sessions
    injector: Injector
    tasks: Tasks
    certificate: Certificate
    port: int

    def vm(self, name: str) -> VmRecord:
        (found,) = (record for record in self.world.vms.values() if record.name == name)
        return found

    def endpoint(
        self, *, user: int = 0, password: str | None = None, trust: Trust | None = None
    ) -> Endpoint:
        account = DEFAULT_USERS[user]
        return Endpoint(
            host="127.0.0.1",
            port=self.port,
            user=account.name,
            password=account.password if password is None else password,
            trust=trust or Trust(thumbprint=self.certificate.thumbprint_sha256),
        )


@contextlib.contextmanager
def running_vcenter(
    directory: Path, scenario: Scenario, disks: DiskStore | None = None
) -> Iterator[LabVCenter]:
    """Serve `scenario` from `directory`; `disks` stands for the hosts of VMs with content."""
    write_scenario(directory, scenario)
    certificate = ensure_certificate(directory / "vcenter")
    world = open_world(directory, disks or MemoryDisks(), no_guests)
    injector = Injector()
    tasks = Tasks(world, injector)
    sessions = Sessions(scenario.users, world.clock, lambda: world.settings.session_idle_seconds)
    dispatcher = Dispatcher(world, tasks, sessions, injector)
    pem = certificate.key_and_certificate
    with VcenterServer(dispatcher, "127.0.0.1", 0, pem) as server:
        yield LabVCenter(world, sessions, injector, tasks, certificate, server.port)
        tasks.drain(5)


@contextlib.asynccontextmanager
async def connected(endpoint: Endpoint, clock: Clock | None = None) -> AsyncIterator[VmomiVCenter]:
    """The agent's vCenter port on a real session; logged out at the end."""
    clock = clock or SystemClock()
    vcenter = VmomiVCenter(Session(endpoint, clock), clock)
    try:
        yield vcenter
    finally:
        await vcenter.close()


def without_content(scenario: Scenario) -> Scenario:
    """The same inventory with disks that exist in the simulator's memory only."""
    return replace(
        scenario,
        datacenters=tuple(
            replace(
                datacenter,
                vms=tuple(
                    replace(
                        vm,
                        writer=None,
                        disks=tuple(replace(disk, content=Content.NONE) for disk in vm.disks),
                    )
                    for vm in datacenter.vms
                ),
            )
            for datacenter in scenario.datacenters
        ),
    )
