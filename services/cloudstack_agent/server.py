"""The agent's composition root: configuration, adapter, servicer."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence

import grpc

from services.cloudstack_agent.client.http_api import Account, HttpApi
from services.cloudstack_agent.servicer import CloudStackServicer
from services.cloudstack_agent.storage_pools import NfsOptions
from services.config.service_args import ServiceSetup, service_main
from services.kit.server import run_service
from v2c.cloudstack.v1 import cloudstack_pb2 as pb
from v2c.cloudstack.v1 import cloudstack_pb2_grpc as pb_grpc

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["CloudstackService"].full_name


def nfs_options(environment: Mapping[str, str], os_release: Mapping[str, str]) -> NfsOptions:
    """The NFS mount options, from V2C_NFS_MOUNT_OPTS and os-release(5).

    Storage hosts are assumed to run the same distribution as this host; where they do not, set
    V2C_NFS_MOUNT_OPTS.
    """
    family = {os_release.get("ID", ""), *os_release.get("ID_LIKE", "").split()}
    return NfsOptions(
        override=environment.get("V2C_NFS_MOUNT_OPTS", ""), on_ubuntu="ubuntu" in family
    )


async def serve(setup: ServiceSetup) -> None:
    """Serve until a signal. Raises ConfigError for a secret that cannot be read."""
    section = setup.config.cloudstack
    account = Account(
        api_key=section.api_key.get_secret_value(),
        secret_key=section.secret_key.get_secret_value(),
    )
    nfs = nfs_options(os.environ, _os_release())
    async with HttpApi(
        section.endpoint, account, timeout_seconds=float(section.timeout_seconds)
    ) as api:

        async def register(server: grpc.aio.Server) -> Sequence[str]:
            pb_grpc.add_CloudstackServiceServicer_to_server(CloudStackServicer(api, nfs), server)
            return (SERVICE_NAME,)

        await run_service(
            "cloudstack agent",
            setup.listen,
            setup.tls,
            register,
            ready_file=setup.ready_file,
            metrics_listen=setup.metrics_listen,
        )


def main() -> int:
    """Run the agent's process; returns its exit status."""
    return service_main("cloudstack", "imports disks into CloudStack", serve)


def _os_release() -> Mapping[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}  # no such file: not Ubuntu
