"""Control sockets: what a caller gets back, also when the other side misbehaves."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.control import ControlClient, ControlError, serve_control


def greet(name: str, times: int = 1) -> dict[str, object]:
    if not name:
        raise ControlError("nameless", "a name is needed")
    return {"text": name * times}


def fail() -> None:
    raise ZeroDivisionError("boom")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    with serve_control(tmp_path / "c.sock", {"greet": greet, "fail": fail}) as server:
        yield server.path


def refused(path: Path, op: str, **arguments: object) -> ControlError:
    with pytest.raises(ControlError) as caught:
        ControlClient(path).call(op, **arguments)
    return caught.value


def test_arguments_and_results_travel(path: Path) -> None:
    client = ControlClient(path)
    assert client.call("greet", name="ä", times=2) == {"text": "ää"}
    assert client.call("greet", name="b") == {"text": "b"}


def test_a_refusal_keeps_its_kind_and_words(path: Path) -> None:
    error = refused(path, "greet", name="")
    assert (error.kind, error.message) == ("nameless", "a name is needed")


@pytest.mark.parametrize(
    ("op", "arguments", "kind"),
    [
        ("gret", {}, "unknown_op"),
        ("greet", {}, "bad_request"),
        ("greet", {"name": "a", "colour": "red"}, "bad_request"),
        ("fail", {}, "internal"),
    ],
)
def test_mistakes_have_kinds_of_their_own(
    path: Path, op: str, arguments: dict[str, object], kind: str
) -> None:
    assert refused(path, op, **arguments).kind == kind


def test_several_lines_on_one_connection(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(b'nonsense\n{"op": "greet", "name": "a"}\n')
        with connection.makefile() as stream:
            assert '"bad_request"' in stream.readline()
            assert '"text": "a"' in stream.readline()


def test_nobody_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.sock", "greet").kind == "unreachable"


def test_a_socket_left_by_a_killed_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with serve_control(path, {"greet": greet}):
        assert ControlClient(path).call("greet", name="a") == {"text": "a"}
    assert not path.exists()
