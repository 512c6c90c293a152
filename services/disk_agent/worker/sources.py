"""Where a pass reads from: one port, and behind it VDDK through nbdkit, or any NBD server."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.disk_agent.engine.endpoint import Endpoint, Side
from services.disk_agent.failures import SourceFailed, SourceUnusable, TransferFailure
from services.disk_agent.worker import nbdkit
from services.disk_agent.worker.order import NbdSpec, SourceSpec, VddkSpec


class Source(Protocol):
    """A disk that can be opened, any number of times one after the other."""

    def open(self) -> AbstractContextManager[Endpoint]:
        """A context manager that yields the connection.

        Entering raises SourceUnusable, whose `retryable` says whether trying again may help.
        SourceFailed that leaves the block is completed with what the server said last.
        """
        ...


@dataclass(frozen=True)
class NbdSource:
    """An NBD server that somebody else runs."""

    spec: NbdSpec

    @contextmanager
    def open(self) -> Iterator[Endpoint]:
        """Connect to it."""
        try:
            endpoint = Endpoint(self.spec.uri, Side.SOURCE)
        except SourceUnusable as error:
            # A server that is being restarted, or a network that is away, comes back.
            error.retryable = True
            raise
        try:
            yield endpoint
        finally:
            endpoint.close()


@dataclass(frozen=True)
class VddkSource:
    """A disk of a snapshot through libvixDiskLib, in an nbdkit of its own."""

    spec: VddkSpec
    password: str
    runtime_dir: Path

    @contextmanager
    def open(self) -> Iterator[Endpoint]:
        """Start nbdkit and connect."""
        installed = nbdkit.probe()
        library = nbdkit.library_dir(self.spec.library_dir)
        server = nbdkit.NbdkitServer(
            self.runtime_dir,
            lambda socket, pidfile, fd: nbdkit.vddk_command(
                self.spec, installed, socket, pidfile, fd
            ),
            password=self.password,
            # The library brings its own libssl and libcurl: for this process and no other.
            environment={"LD_LIBRARY_PATH": str(library / "lib64")},
        )
        with server:
            try:
                endpoint = Endpoint(server.uri, Side.SOURCE)
            except SourceUnusable as error:
                raise explained(server.last_words(), error) from error
            try:
                yield endpoint
            except SourceFailed as error:
                said = server.last_words()
                if said:
                    error.amend(f"{error.message}: {said}", source_said=said)
                raise
            finally:
                # nbdkit does not end while a client is connected.
                endpoint.close()


@dataclass(frozen=True)
class _Advice:
    pattern: str
    reason: str
    retryable: bool
    hint: str


# VixDiskLib_ConnectEx is a function's name and no sign of a connection problem.
_FUNCTION = re.compile(r"VixDiskLib_\w+")
# Messages are libvixDiskLib's own (VixDiskLib_GetErrorText).
_ADVICE = (
    _Advice(
        r"thumbprint|certificate|SSL",
        "VDDK_CERTIFICATE",
        False,
        "correct vcenter.thumbprint: it is the SHA-1 fingerprint of vCenter's certificate",
    ),
    _Advice(
        r"incorrect user name or password|permission|access rights|login|cannot be authenticated",
        "VDDK_LOGIN",
        False,
        "check vcenter.user and the password, and that the user may read disks of this VM",
    ),
    _Advice(
        r"resolve|host address|name or service",
        "VDDK_HOST",
        True,
        "check that this host resolves the names of vCenter and of every ESXi host",
    ),
    _Advice(
        r"connect|network|timed? ?out|unreachable|refused|busy|session|resource",
        "VDDK_CONNECTION",
        True,
        "check ports 443 (vCenter) and 902 (ESXi hosts) from this host, DNS, transports, and the "
        "number of open NFC sessions",
    ),
    _Advice(
        r"not found|be found|cannot find|no such|not exist|invalid snapshot",
        "VDDK_DISK_NOT_FOUND",
        False,
        "check that VM, snapshot and disk file belong together and that the snapshot still exists",
    ),
    _Advice(
        r"not supported",
        "VDDK_TRANSPORT",
        False,
        "this host reaches the disk by none of the transports asked for: use nbdssl or nbd",
    ),
)


def explained(said: str, error: TransferFailure) -> SourceUnusable:
    """Put the library's words and the next step into an error that says only "no export"."""
    words = _FUNCTION.sub("", said)
    message = f"the disk cannot be opened: {said or error.message}"
    for advice in _ADVICE:
        if re.search(advice.pattern, words, re.IGNORECASE):
            return SourceUnusable(
                message, reason=advice.reason, retryable=advice.retryable, hint=advice.hint
            )
    return SourceUnusable(
        message,
        reason="VDDK_OPEN_FAILED",
        retryable=True,
        hint="the text is the library's own; check ports 443 and 902, DNS, thumbprint, transports",
    )


def source_for(spec: SourceSpec, password: str, runtime_dir: Path) -> Source:
    """The source a transfer's order names."""
    match spec:
        case NbdSpec():
            return NbdSource(spec)
        case VddkSpec():
            return VddkSource(spec, password, runtime_dir)
