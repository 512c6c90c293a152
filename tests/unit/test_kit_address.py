import os
import socket
import stat
from pathlib import Path

import pytest

from services.kit.address import (
    AddressInUseError,
    InvalidAddressError,
    TcpAddress,
    UnixAddress,
    parse_address,
    parse_target,
    private_unix_socket,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/v2c/x.sock", UnixAddress(Path("/run/v2c/x.sock"))),
        ("unix:///run/v2c/x.sock", UnixAddress(Path("/run/v2c/x.sock"))),
        ("127.0.0.1:0", TcpAddress("127.0.0.1", 0)),
        ("agent.example:50051", TcpAddress("agent.example", 50051)),
        ("[::1]:50051", TcpAddress("::1", 50051)),
        (":8000", TcpAddress("", 8000)),
    ],
)
def test_addresses_are_parsed(text: str, address: object) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["[::1]:443", "127.0.0.1:7", "unix:/a/b", "h.example:1"])
def test_an_address_prints_as_it_was_written(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("agent.example", "has no port"),
        ("agent.example:", "is not a port"),
        ("agent.example:65536", "is not a port"),
        ("agent.example:٣", "is not a port"),
        ("::1:443", "brackets"),
        ("[agent]:443", "is not IPv6"),
        ("http://agent:443", "brackets"),
        ("a b:443", "not a host name"),
        ("unix:relative.sock", "must be absolute"),
        ("unix:/" + "x" * 107, "107 bytes"),
    ],
)
def test_an_invalid_address_is_refused_with_the_cause(text: str, problem: str) -> None:
    with pytest.raises(InvalidAddressError, match=problem) as caught:
        parse_address(text)
    assert repr(text) in caught.value.message


@pytest.mark.parametrize("text", [":8000", "127.0.0.1:0"])
def test_an_address_to_connect_to_needs_host_and_port(text: str) -> None:
    with pytest.raises(InvalidAddressError, match="name host and port"):
        parse_target(text)


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("unix:/a", True),
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        (":1", False),
        ("10.0.0.1:1", False),
        ("agent.example:1", False),
    ],
)
def test_only_loopback_and_unix_addresses_are_local(text: str, local: bool) -> None:
    assert parse_address(text).is_local is local


def _bind(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def test_socket_and_new_directories_are_private(tmp_path: Path) -> None:
    path = tmp_path / "run" / "v2c" / "x.sock"
    before = os.umask(0o022)
    os.umask(before)
    with private_unix_socket(UnixAddress(path)), _bind(path):
        pass
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700
    after = os.umask(before)
    assert after == before


def test_the_socket_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    _bind(path).close()
    assert path.exists()
    with private_unix_socket(UnixAddress(path)), _bind(path):
        assert path.exists()


def test_the_socket_of_a_running_process_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with _bind(path):
        with (
            pytest.raises(AddressInUseError, match="another process listens"),
            private_unix_socket(UnixAddress(path)),
        ):
            pass
        assert path.exists()


def test_a_file_that_is_not_a_socket_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    path.write_text("precious")
    with (
        pytest.raises(AddressInUseError, match="is not a socket"),
        private_unix_socket(UnixAddress(path)),
    ):
        pass
    assert path.read_text() == "precious"
