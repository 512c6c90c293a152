"""The sources that a pass can read: a disk through VDDK and nbdkit, or any NBD server."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.disk_agent.engine.endpoint import Endpoint, Side
from services.disk_agent.transfer_failures import SourceFailed, SourceUnusable
from services.disk_agent.worker import nbdkit
from services.disk_agent.worker.order import NbdSpec, SourceSpec, VddkSpec
from services.disk_agent.worker.password import Password
from services.disk_agent.worker.vddk_failures import open_failure


class Source(Protocol):
    """A disk that can be opened again after it was closed, any number of times."""

    def open(self) -> AbstractContextManager[Endpoint]:
        """A context manager that yields the connection.

        Entering raises SourceUnusable; its `retryable` is true when another attempt may succeed.
        A SourceFailed that leaves the block gets the server's last messages added.
        """
        ...


@dataclass(frozen=True)
class NbdSource:
    """An export of an NBD server that v2c does not run."""

    spec: NbdSpec

    @contextmanager
    def open(self) -> Iterator[Endpoint]:
        """Connect to the server."""
        try:
            endpoint = Endpoint(self.spec.uri, Side.SOURCE)
        except SourceUnusable as error:
            # The server may be restarting, or the network down for a while.
            raise SourceUnusable(error.message, retryable=True, hint=error.hint) from error
        try:
            yield endpoint
        finally:
            endpoint.close()


@dataclass(frozen=True)
class VddkSource:
    """A disk of a snapshot, read through libvixDiskLib in an nbdkit process of its own.

    `read_bytes` is the largest read that will be sent to it.
    """

    spec: VddkSpec
    password: Password
    runtime_dir: Path
    read_bytes: int

    @contextmanager
    def open(self) -> Iterator[Endpoint]:
        """Start nbdkit and connect."""
        installed = nbdkit.probe()
        library = nbdkit.library_dir(self.spec.library_dir)
        server = nbdkit.NbdkitServer(
            self.runtime_dir,
            lambda socket, pidfile, fd: nbdkit.vddk_command(
                self.spec, installed, socket, pidfile, fd, read_bytes=self.read_bytes
            ),
            password=self.password,
            # The VDDK has its own libssl and libcurl; no other process may load those.
            environment={"LD_LIBRARY_PATH": str(library / "lib64")},
        )
        with server:
            try:
                endpoint = Endpoint(server.uri, Side.SOURCE)
            except SourceUnusable as error:
                # libnbd reports only that there is no export; nbdkit's stderr has the cause.
                raise open_failure(
                    self.spec, server.last_messages(), server.vix_error(), otherwise=error.message
                ) from error
            try:
                yield endpoint
            except SourceFailed as error:
                messages = server.last_messages()
                if messages:
                    error.amend(f"{error.message}: {messages}", source_message=messages)
                raise
            finally:
                # nbdkit does not end while a client is connected.
                endpoint.close()


def source_for(
    spec: SourceSpec, password: Password, runtime_dir: Path, *, read_bytes: int
) -> Source:
    """The source a transfer's order names; `read_bytes` is the largest read of the transfer."""
    match spec:
        case NbdSpec():
            return NbdSource(spec)
        case VddkSpec():
            return VddkSource(spec, password, runtime_dir, read_bytes)
