"""Typed wrappers for the parts of pyVmomi that its type stubs lack."""

import contextlib
import http.client
import socket
import ssl
import threading
from weakref import WeakSet
from xml.etree import ElementTree

from pyVmomi import vim
from pyVmomi.SoapAdapter import SoapStubAdapter
from pyVmomi.VmomiSupport import GetServiceVersions, ManagedObject, versionIdMap

from services.vmware_agent.errors import VCenterFault

VERSIONS_PATH = "/sdk/vimServiceVersions.xml"


def moref(managed_object: ManagedObject) -> str:
    """The managed object's reference id, such as "vm-42"."""
    return str(managed_object._GetMoId())


class Stub(SoapStubAdapter):
    """pyVmomi's stub that also keeps track of the connections that calls are using."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)  # type: ignore[no-untyped-call]
        self._open: WeakSet[http.client.HTTPConnection] = WeakSet()
        self._open_lock = threading.Lock()

    def GetConnection(self) -> http.client.HTTPConnection:  # noqa: N802 - pyVmomi's name
        """A pooled or new connection for one call."""
        connection: http.client.HTTPConnection = super().GetConnection()  # type: ignore[no-untyped-call]
        with self._open_lock:
            self._open.add(connection)
        return connection

    def retire(self) -> None:
        """Close idle connections now, and those in use when their call ends."""
        self.poolSize = 0
        self.DropConnections()  # type: ignore[no-untyped-call]

    def abort(self) -> None:
        """Shut down all connections, so that running calls fail with an OSError at once."""
        self.retire()
        with self._open_lock:
            connections = list(self._open)
        for connection in connections:
            if connection.sock is not None:
                # The connection may be closed already.
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)


def virtual_machine(stub: SoapStubAdapter, vm: str) -> vim.VirtualMachine:
    """A reference to a VM. The first call on it fails if the VM does not exist."""
    return vim.VirtualMachine(vm, stub)


def snapshot(stub: SoapStubAdapter, moref: str) -> vim.vm.Snapshot:
    """A reference to a snapshot. The first call on it fails if the snapshot does not exist."""
    return vim.vm.Snapshot(moref, stub)


def service_content(stub: SoapStubAdapter) -> vim.ServiceInstanceContent:
    """vCenter's root objects; needs no login. Blocking."""
    return _service_instance(stub).RetrieveContent()


def touch(stub: SoapStubAdapter) -> None:
    """A cheap call that keeps the session alive. Blocking; raises NotAuthenticated without one."""
    _service_instance(stub).CurrentTime()


def task(stub: SoapStubAdapter, moref: str) -> vim.Task:
    """A reference to a task. The first call on it fails if the task does not exist."""
    return vim.Task(moref, stub)


def connect_stub(
    host: str,
    port: int,
    context: ssl.SSLContext,
    *,
    connect_timeout_seconds: float,
    request_timeout_seconds: float,
    pool_size: int,
) -> Stub:
    """A stub, not yet logged in, for the newest API version that both sides support. Blocking.

    The stub's connection pool may be used from several threads. The timeouts apply to each read and
    write on a connection, in the version probe and in all other calls. pyVmomi's own probe is not
    used, because it has no timeout and would hang if vCenter accepts connections without answering.

    Raises the errors of http.client and ssl, and VCenterFault if the host is no vSphere server.
    """
    version = _newest_version(_served_versions(host, port, context, connect_timeout_seconds), host)
    return Stub(
        host=host,
        port=port,
        path="/sdk",
        version=version,
        sslContext=context,
        httpConnectionTimeout=request_timeout_seconds,
        poolSize=pool_size,
        # Idle connections are closed before vCenter's proxy drops them, which it does after a few
        # minutes: a request on a dropped connection would fail.
        connectionPoolTimeout=60,
    )


def _served_versions(
    host: str, port: int, context: ssl.SSLContext, timeout_seconds: float
) -> frozenset[str]:
    connection = http.client.HTTPSConnection(host, port, context=context, timeout=timeout_seconds)
    try:
        connection.request("GET", VERSIONS_PATH)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
        # vCenter's proxy answers 503 while its services start.
        raise http.client.HTTPException(f"{response.status} {response.reason}")
    if response.status != http.HTTPStatus.OK:
        raise _no_vsphere(host, f"{VERSIONS_PATH} answers {response.status}")
    try:
        # Safe: the expat of supported Pythons refuses entity expansion attacks, and the peer is
        # authenticated.
        root = ElementTree.fromstring(body)  # noqa: S314
    except ElementTree.ParseError as error:
        raise _no_vsphere(host, f"{VERSIONS_PATH} is not XML") from error
    return frozenset(
        (version.text or "").strip()
        for namespace in root.iter("namespace")
        for version in namespace.iter("version")
    )


def _newest_version(served: frozenset[str], host: str) -> str:
    for version in GetServiceVersions("vim25"):
        if versionIdMap[version] in served:
            return str(version)
    raise _no_vsphere(host, f"its API versions are unknown: {', '.join(sorted(served)) or 'none'}")


def _no_vsphere(host: str, why: str) -> VCenterFault:
    return VCenterFault(
        message=f"{host} is no vSphere server: {why}",
        hint="vcenter.host must be the address of a vCenter or ESXi host",
    )


def _service_instance(stub: SoapStubAdapter) -> vim.ServiceInstance:
    return vim.ServiceInstance("ServiceInstance", stub)
