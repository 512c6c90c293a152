"""Addresses of services: ``unix:/run/v2c/x.sock``, ``host:port``, ``[::1]:port``, ``:port``."""

import contextlib
import ipaddress
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.kit.failure import Code, ServiceError

# sun_path in Linux' sockaddr_un holds 108 bytes with the terminating NUL, see unix(7).
_UNIX_PATH_LIMIT = 107
_PROBE_TIMEOUT_SECONDS = 1.0


class InvalidAddressError(ServiceError):
    """The text is not an address, or the address cannot be used for this purpose."""

    code = Code.INVALID_ARGUMENT
    reason = "ADDRESS_INVALID"
    hint = "write unix:/path, host:port or [ipv6]:port"


class AddressInUseError(ServiceError):
    """Another process listens at the address, or its path exists and is not a socket."""

    code = Code.FAILED_PRECONDITION
    reason = "ADDRESS_IN_USE"
    hint = "stop the other process or choose another address"


@dataclass(frozen=True)
class UnixAddress:
    """A unix socket's path, absolute."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"

    @property
    def is_local(self) -> bool:
        """Always true: no other machine reaches it."""
        return True


@dataclass(frozen=True)
class TcpAddress:
    """Host and port; the host is "" for every interface, the port 0 for any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def bind_target(self) -> str:
        """The address to listen on, in gRPC's notation."""
        return str(TcpAddress(self.host or "::", self.port))


Address = UnixAddress | TcpAddress


def parse_address(text: str) -> Address:
    """Parse an address. Raises InvalidAddressError, which quotes the text and the reason."""
    if text.startswith("unix:"):
        return _parse_unix(text)
    host, colon, port_text = text.rpartition(":")
    if not colon:
        raise InvalidAddressError(message=f"address {text!r} has no port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError as exc:
            raise InvalidAddressError(message=f"address {text!r}: {host!r} is not IPv6") from exc
    elif ":" in host:
        raise InvalidAddressError(message=f"address {text!r}: an IPv6 host goes in brackets")
    elif "/" in host or any(character.isspace() for character in host):
        raise InvalidAddressError(message=f"address {text!r}: {host!r} is not a host name")
    if not (port_text.isascii() and port_text.isdigit()) or int(port_text) > 65535:
        raise InvalidAddressError(
            message=f"address {text!r}: {port_text!r} is not a port (0-65535)"
        )
    return TcpAddress(host, int(port_text))


def parse_target(text: str) -> Address:
    """Parse an address to connect to: as `parse_address`, but a host and a port are needed."""
    address = parse_address(text)
    if isinstance(address, TcpAddress) and not (address.host and address.port):
        raise InvalidAddressError(
            message=f"address {text!r} cannot be connected to: name host and port"
        )
    return address


@contextlib.contextmanager
def private_unix_socket(address: UnixAddress) -> Iterator[None]:
    """Prepare the path of a unix socket; only this user can reach a socket bound in the block.

    Missing directories are created with mode 0700; a socket bound inside gets mode 0600. A socket
    file that no process answers on, left by one that was killed, is removed.

    Raises AddressInUseError when a process answers or the path is not a socket,
    InvalidAddressError when the directory cannot be made.
    """
    path = address.path
    try:
        _make_private_directory(path.parent)
        _remove_stale_socket(path)
    except OSError as exc:
        raise InvalidAddressError(
            message=f"cannot listen on {address}: {exc.strerror or exc}",
            hint="choose a path in a directory this user can write",
        ) from exc
    # The umask at bind() decides the socket's mode; until a chmod others could connect.
    previous = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(previous)


def _parse_unix(text: str) -> UnixAddress:
    path = text.removeprefix("unix:")
    if path.startswith("//"):  # gRPC also writes unix:///absolute
        path = path[2:]
    if not path.startswith("/"):
        raise InvalidAddressError(message=f"address {text!r}: the socket's path must be absolute")
    if len(os.fsencode(path)) > _UNIX_PATH_LIMIT:
        raise InvalidAddressError(
            message=f"address {text!r}: a unix socket's path holds {_UNIX_PATH_LIMIT} bytes",
            hint="choose a shorter directory",
        )
    return UnixAddress(Path(path))


def _make_private_directory(directory: Path) -> None:
    if not directory.exists():
        _make_private_directory(directory.parent)
        with contextlib.suppress(FileExistsError):  # made by another process meanwhile
            directory.mkdir(mode=0o700)


def _remove_stale_socket(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise AddressInUseError(message=f"{path} exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_SECONDS)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except TimeoutError:
            pass  # a full backlog: a process listens
    raise AddressInUseError(message=f"another process listens on unix:{path}")
