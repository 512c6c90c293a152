"""Why libvixDiskLib did not open a disk: decided by its error number if known, else by its text.

v2c's plugin reports the number (`services.disk_agent.vddk.plugin`); nbdkit's vddk plugin prints
text only. Texts hold names that people chose, so names are removed before a text is searched.
"""

import re
from collections.abc import Iterable

from services.disk_agent.transfer_failures import SourceUnusable
from services.disk_agent.worker.order import VddkSpec


class VddkOpenFailed(SourceUnusable):
    """libvixDiskLib did not open the disk; the cause is not one that v2c knows.

    Subclasses are known causes. `numbers` are the library's error codes that have this cause and no
    other (vix.h and vixDiskLib.h, the low 16 bits of a VixError); `pattern` matches the library's
    texts for this cause (VixDiskLib_GetErrorText, and the lines it logs before it fails).
    """

    reason = "VDDK_OPEN_FAILED"
    retryable = True
    hint = "the text is the library's own; check ports 443 and 902, DNS, thumbprint, transports"

    numbers: frozenset[int] = frozenset()
    pattern = ""


class VddkCertificate(VddkOpenFailed):
    """vCenter's certificate is not the one whose thumbprint is configured."""

    reason = "VDDK_CERTIFICATE"
    retryable = False
    hint = "correct vcenter.thumbprint: it is the SHA-1 fingerprint of vCenter's certificate"

    # nbdssl is a transport; nfcssl is the library's own name for it.
    pattern = r"thumbprint|certificate|(?<!nbd)(?<!nfc)SSL"


class VddkLogin(VddkOpenFailed):
    """vCenter refused the user or the password, or the user may not read this disk."""

    reason = "VDDK_LOGIN"
    retryable = False
    hint = "check vcenter.user and the password, and that the user may read disks of this VM"

    # FILE_ACCESS_ERROR (also for a running machine's disk without a snapshot), AUTHENTICATION_FAIL,
    # HOST_USER_PERMISSIONS (the login was refused), SNAPSHOT_NOPERM.
    numbers = frozenset({13, 35, 3014, 13006})
    pattern = (
        r"incorrect user name or password|permission|access rights|login|cannot be authenticated"
    )


class VddkHost(VddkOpenFailed):
    """The name of vCenter or of an ESXi host could not be resolved."""

    reason = "VDDK_HOST"
    retryable = True
    hint = "check that this host resolves the names of vCenter and of every ESXi host"

    # INVALID_HOSTNAME_SPECIFICATION.
    numbers = frozenset({18002})
    pattern = r"resolve|host address|name or service"


class VddkConnection(VddkOpenFailed):
    """vCenter or the ESXi host was not reached, refused the connection or has none free."""

    reason = "VDDK_CONNECTION"
    retryable = True
    hint = (
        "check ports 443 (vCenter) and 902 (ESXi hosts) from this host, DNS, transports, and the "
        "number of open NFC sessions"
    )

    # OBJECT_IS_BUSY; HOST_NOT_CONNECTED, VM_HOST_DISCONNECTED, HOST_CONNECTION_LOST; the network's:
    # NETBLKDEV_HANDSHAKE, SOCKET_CREATION_ERROR, SERVER_NOT_FOUND, NETWORK_CONN_REFUSED,
    # TCP_SOCKET_ERROR, TCP_CONN_LOST, SERVER_SHUTDOWN, SERVER_NOT_AVAILABLE.
    numbers = frozenset(
        {5, 26, 34, 36, 14006, 14007, 14008, 14009, 14010, 14011, 14014, 14015},
    )
    pattern = r"connect|network|timed? ?out|unreachable|refused|busy|session|resource"


class VddkDiskNotFound(VddkOpenFailed):
    """There is no such machine, snapshot or disk file."""

    reason = "VDDK_DISK_NOT_FOUND"
    retryable = False
    hint = (
        "check that VM, snapshot and disk file belong together and that the snapshot still exists"
    )

    # FILE_NOT_FOUND, OBJECT_NOT_FOUND, VM_NOT_FOUND, SNAPSHOT_INVAL, SNAPSHOT_NOTFOUND.
    numbers = frozenset({4, 25, 4000, 13000, 13003})
    pattern = r"not found|be found|cannot find|no such|not exist|invalid snapshot"


class VddkTransport(VddkOpenFailed):
    """None of the transports that were asked for reaches the disk from this host."""

    reason = "VDDK_TRANSPORT"
    retryable = False
    hint = "this host reaches the disk by none of the transports asked for: use nbdssl or nbd"

    # NOT_SUPPORTED.
    numbers = frozenset({6})
    pattern = r"not supported"


# Where the number does not decide, the first class whose pattern matches does. A number that has
# several causes is in no class: 1 (unknown), or 2 (out of memory, also an ESXi host out of NFC
# sessions).
CAUSES = (
    VddkCertificate,
    VddkLogin,
    VddkHost,
    VddkConnection,
    VddkDiskNotFound,
    VddkTransport,
)

# CANNOT_CONNECT_TO_HOST is also returned when the certificate is refused. The library logs "login
# failure" with it whatever the cause, so that VddkLogin is not among these.
_CANNOT_CONNECT = 18000
_CANNOT_CONNECT_CAUSES = (VddkCertificate, VddkHost, VddkConnection)

# A function's name, such as VixDiskLib_ConnectEx, must not match "connect".
_FUNCTION = re.compile(r"VixDiskLib\w*_\w+")
# Hosts with a domain, disk files and URIs: the library may write them otherwise than the spec.
_NAMES = re.compile(r"\S+://\S*|\S*\.vmdk\S*|(?<![\w.-])[\w-]+(?:\.[\w-]+)+(?::\d+)?")
_DATASTORE_PATH = re.compile(r"^\[(?P<datastore>[^\]]+)\]\s*(?P<path>.*)$")


def open_failure(
    spec: VddkSpec, text: str, number: int | None, *, otherwise: str = ""
) -> VddkOpenFailed:
    """The failure for a disk that was not opened.

    `text` is the last lines of nbdkit's stderr, `number` the library's error code if known.
    `otherwise` stands in the message where there are no lines; no cause is looked for in it.
    """
    message = f"the disk cannot be opened: {text or otherwise}"
    metadata = {} if number is None else {"vix_error": str(number)}
    for cause in CAUSES:
        if number in cause.numbers:
            return cause(message, metadata=metadata)
    plain = without_names(text, spec)
    connecting = number == _CANNOT_CONNECT
    for cause in _CANNOT_CONNECT_CAUSES if connecting else CAUSES:
        if re.search(cause.pattern, plain, re.IGNORECASE):
            return cause(message, metadata=metadata)
    unknown = VddkConnection if connecting else VddkOpenFailed
    return unknown(message, metadata=metadata)


def without_names(text: str, spec: VddkSpec) -> str:
    """A text of libvixDiskLib without the names of functions, machines, hosts, files and users.

    A machine called `login-failed-01` must not look like a refused login.
    """
    # Longest first: a name may be a part of another.
    for name in sorted(filter(None, _names(spec)), key=len, reverse=True):
        text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", " ", text, flags=re.IGNORECASE)
    return _NAMES.sub(" ", _FUNCTION.sub(" ", text))


def _names(spec: VddkSpec) -> Iterable[str]:
    yield from (spec.server, spec.user, spec.vm_moref, spec.snapshot_moref, spec.library_dir)
    yield spec.disk_path
    found = _DATASTORE_PATH.match(spec.disk_path)
    path = found["path"] if found else spec.disk_path
    yield from (path, *path.split("/"), path.rpartition("/")[2].removesuffix(".vmdk"))
    if found:
        yield found["datastore"]
