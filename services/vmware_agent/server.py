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

# This many objects are made before the collector looks at the new ones (700 by default).
_NEW_OBJECTS = 50_000


def endpoint_from(config: VCenterConfig) -> Endpoint:
    """The session's endpoint. Raises ConfigError when the password's reference leads nowhere."""
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
    """What puts the servicer on a server of the kit."""

    async def register(server: grpc.aio.Server) -> Sequence[str]:
        vmware_pb2_grpc.add_VmwareServiceServicer_to_server(servicer, server)
        return [vmware_pb2.DESCRIPTOR.services_by_name["VmwareService"].full_name]

    return register


def collect_garbage_seldom() -> None:
    """A vCenter's answer is several hundred thousand objects, none of them garbage while read.

    By default Python looks through all of them again for every few hundred new ones; pyVmomi's
    classes alone are a hundred thousand. Measured with 1,000 VMs: a tenth of a listing's time.
    """
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS)


async def serve(setup: ServiceSetup) -> None:
    """Serve until SIGTERM. vCenter is first asked when a call needs it: an agent that cannot
    reach it still answers with the reason.
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
    """The process' entry point; returns its exit status."""
    return service_main("vmware", "reads VMs, snapshots and changed areas from vCenter", serve)
