"""Translates vCenter's faults and failures of the connection to errors of this service.

Sources: the faults that the vSphere Web Services API lists for each method, and pyVmomi's errors.
"""

import http.client
import ssl
from xml.parsers.expat import ExpatError

from pyVmomi import vim, vmodl

from services.kit.failure import ServiceError
from services.vmware_agent.errors import (
    DatastoreFull,
    QuiesceFailed,
    SnapshotLimit,
    SnapshotNotFound,
    ToolsNotRunning,
    VCenterBusy,
    VCenterFault,
    VCenterPermissionDenied,
    VCenterUnreachable,
    VCenterUntrusted,
    VmNotFound,
    WrongPowerState,
)

# Errors of http.client and ssl for a connection that failed or broke, and of pyVmomi's parser for
# an answer that is incomplete.
CONNECTION_ERRORS = (OSError, http.client.HTTPException, ExpatError)

_TRANSIENT = (
    vmodl.fault.HostCommunication,  # also HostNotConnected, HostNotReachable
    vmodl.fault.RequestCanceled,
    vim.fault.Timedout,
    vim.fault.ConcurrentAccess,
    vim.fault.NoActiveHostInCluster,
    # Usually a lock that a backup, another host or an NFC connection holds for minutes.
    vim.fault.FileFault,
    vim.fault.GenericVmConfigFault,
    vim.fault.ResourceInUse,
)


def fault_name(fault: vmodl.MethodFault) -> str:
    """The fault's type without its namespace, such as "FileFault"."""
    return type(fault).__name__.rsplit(".", 1)[-1]


def fault_text(fault: vmodl.MethodFault) -> str:
    """The fault's message, else the texts of its message list, else its type."""
    # pyVmomi sets `msg` on deserialized faults; its type stubs do not declare it.
    parts = [getattr(fault, "msg", None), *(part.message for part in fault.faultMessage or [])]
    texts = dict.fromkeys(text.strip() for text in parts if text and text.strip())
    return "; ".join(texts) or fault_name(fault)


def translate(fault: vmodl.MethodFault, action: str) -> ServiceError:
    """The error for a fault raised during `action` ("removing snapshot snapshot-7").

    The caller raises it ``from fault``. Not for NotAuthenticated, which the session handles, nor
    for faults of QueryChangedDiskAreas, which `adapter` handles.
    """
    message = f"{action}: {fault_text(fault)}"
    metadata = {"fault": fault_name(fault)}
    match fault:
        case vmodl.fault.ManagedObjectNotFound():
            gone = str(fault.obj._GetMoId()) if fault.obj is not None else ""
            kind = SnapshotNotFound if gone.startswith("snapshot") else VmNotFound
            return kind(message=f"{action}: {gone or 'the object'} does not exist")
        case vim.fault.NoPermission():
            metadata["privilege"] = fault.privilegeId or ""
            missing = f" (privilege {fault.privilegeId})" if fault.privilegeId else ""
            return VCenterPermissionDenied(
                message=f"{action}: vcenter.user lacks a permission{missing}", metadata=metadata
            )
        case vim.fault.TaskInProgress():
            return VCenterBusy(message, metadata=metadata)
        case vim.fault.ApplicationQuiesceFault() | vim.fault.FilesystemQuiesceFault():
            return QuiesceFailed(message, metadata=metadata)
        case vim.fault.SnapshotFault() | vim.fault.VmConfigFault() if _is_about_quiescing(message):
            return QuiesceFailed(message, metadata=metadata)
        case vim.fault.TooManySnapshotLevels():
            return SnapshotLimit(message, metadata=metadata)
        case vim.fault.NoDiskSpace():
            return DatastoreFull(message, metadata={**metadata, "datastore": fault.datastore or ""})
        case vim.fault.ToolsUnavailable():
            return ToolsNotRunning(message, metadata=metadata)
        case vim.fault.InvalidPowerState():
            return WrongPowerState(message, metadata=metadata)
    return VCenterFault(message, metadata=metadata, retryable=isinstance(fault, _TRANSIENT))


def _is_about_quiescing(text: str) -> bool:
    """Old hosts report a failed quiesce as a general fault; only its message shows the cause."""
    return "quiesc" in text.lower()


def connection_failed(error: Exception, host: str) -> ServiceError:
    """The error for a connection to `host` ("address:port") that failed with `error`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return VCenterUntrusted(
            message=f"the certificate of {host} is not trusted: {error.verify_message}",
            metadata={"host": host},
        )
    text = str(error) or type(error).__name__
    return VCenterUnreachable(
        message=f"vCenter {host} does not answer: {text}", metadata={"host": host}
    )
