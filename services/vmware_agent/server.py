"""The VMware agent's process: its composition root and command line."""

import asyncio
import contextlib
import gc
from collections.abc import Sequence

import grpc

from services.config.config_model import VCenter as VCenterConfig
from services.config.service_args import ServiceSetup, service_main
from services.kit.server import Register, run_service
from services.vmware_agent.ports import SystemClock
from services.vmware_agent.servicer import VmwareServicer
from services.vmware_agent.vcenter.adapter import VmomiVCenter
from services.vmware_agent.vcenter.session import Endpoint, Session
from services.vmware_agent.vcenter.trust import Trust
from v2c.vmware.v1 import vmware_pb2, vmware_pb2_grpc

# New objects between two runs of the garbage collector (Python's default is 700).
_NEW_OBJECTS = 50_000


def endpoint_from(config: VCenterConfig) -> Endpoint:
    """The session's endpoint. Raises ConfigError if the password's reference cannot be resolved."""
    return Endpoint(
        host=config.host,
        port=config.port,
        user=config.user,
        password=config.password.get_secret_value(),
        trust=Trust(
            thumbprint=config.thumbprint or "",
            ca_file=config.ca_file,
            insecure=config.insecure,
        ),
    )


def registration(servicer: VmwareServicer) -> Register:
    """The function with which the kit registers the servicer on its server."""

    async def register(server: grpc.aio.Server) -> Sequence[str]:
        vmware_pb2_grpc.add_VmwareServiceServicer_to_server(servicer, server)
        return [vmware_pb2.DESCRIPTOR.services_by_name["VmwareService"].full_name]

    return register


def collect_garbage_seldom() -> None:
    """Run the garbage collector less often.

    Parsing one answer of vCenter creates several hundred thousand objects, none of which is garbage
    yet. By default Python examines them every few hundred new objects; pyVmomi's classes alone are
    a hundred thousand. With 1,000 VMs this took a tenth of a listing's time.
    """
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS)


async def serve(setup: ServiceSetup) -> None:
    """Serve until SIGTERM.

    The session with vCenter is opened at the first call that needs it, so that an agent that cannot
    reach vCenter starts and answers calls with the reason.
    """
    collect_garbage_seldom()
    endpoint = endpoint_from(setup.config.vcenter)
    clock = SystemClock()
    session = Session(endpoint, clock)
    vcenter = VmomiVCenter(session, clock)

    servicer = VmwareServicer(vcenter, clock, endpoint.host)
    keep_alive = asyncio.create_task(session.keep_alive())
    try:
        await run_service(
            "vmware agent",
            setup.listen,
            setup.tls,
            registration(servicer),
            reflection=True,
            ready_file=setup.ready_file,
            metrics_listen=setup.metrics_listen,
        )
    finally:
        keep_alive.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keep_alive
        await vcenter.close()


def main() -> int:
    """Run the agent's process; returns its exit status."""
    return service_main("vmware", "reads VMs, snapshots and changed areas from vCenter", serve)
