"""A session at the lab's vCenter, as any client has one."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyVim.connect import Disconnect, SmartConnect

from lab.stack import Lab


@contextmanager
def vcenter_login(lab: Lab) -> Iterator[Any]:
    """A service instance, logged in with the lab's own account until the block ends."""
    vcenter = lab.info["vcenter"]
    context = ssl.create_default_context(cafile=vcenter["ca_file"])
    context.check_hostname = False
    service = SmartConnect(
        host=vcenter["host"],
        port=vcenter["port"],
        user=vcenter["user"],
        pwd=vcenter["password"],
        sslContext=context,
    )
    try:
        yield service
    finally:
        Disconnect(service)
