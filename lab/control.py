"""Control sockets of the lab: JSON objects, one per line, over a unix socket.

A request is ``{"op": "<name>", ...arguments}``; the answer is ``{"ok": true, ...result}`` or
``{"ok": false, "kind": "<name>", "message": "<sentence>"}``. Every process of the lab that can be
controlled from outside (faults, settings, state) has such a socket. This module uses the standard
library only, because the server also runs inside nbdkit.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

_log = logging.getLogger(__name__)

Handler = Callable[..., Mapping[str, object] | None]
"""A function that takes the request's arguments as keywords and returns the answer's fields."""


class ControlError(Exception):
    """A request was refused or could not be delivered.

    ``kind`` is an identifier that programs may compare: what the server's handler chose, or
    ``unknown_op``, ``bad_request``, ``internal`` (server) and ``unreachable`` (client).
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class ControlServer:
    """A running control server; closing it removes the socket. Use as a context manager."""

    def __init__(self, server: socketserver.BaseServer, thread: threading.Thread, path: Path):
        self.path = path
        self._server = server
        self._thread = thread

    def close(self) -> None:
        """Stop answering, wait for the accepting thread and remove the socket's name."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def serve_control(path: Path, handlers: Mapping[str, Handler]) -> ControlServer:
    """Answer requests on the unix socket ``path`` from a daemon thread.

    Handlers run concurrently, one thread per connection. A handler refuses a request by raising
    ``ControlError``; any other exception is logged and answered as ``internal``. A socket that a
    killed process left behind is replaced.
    """

    class LineHandler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                answer = _answer(line, handlers)
                try:
                    self.wfile.write(json.dumps(answer).encode() + b"\n")
                except (BrokenPipeError, ConnectionResetError):
                    return  # the client has disconnected; the operation was carried out

    path.unlink(missing_ok=True)
    server = _UnixServer(os.fspath(path), LineHandler)
    path.chmod(0o600)
    thread = threading.Thread(
        target=server.serve_forever,
        kwargs={"poll_interval": 0.05},
        name=f"control {path.name}",
        daemon=True,
    )
    thread.start()
    return ControlServer(server, thread, path)


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    # Many processes connect at once when a lab starts; the default backlog of 5 refuses some.
    request_queue_size = 128


def _answer(line: bytes, handlers: Mapping[str, Handler]) -> dict[str, object]:
    try:
        return {"ok": True, **_dispatch(line, handlers)}
    except ControlError as error:
        return {"ok": False, "kind": error.kind, "message": error.message}
    except Exception as error:
        _log.exception("control request failed: %r", line[:200])
        return {
            "ok": False,
            "kind": "internal",
            "message": f"{type(error).__name__}: {error}",
        }


def _dispatch(line: bytes, handlers: Mapping[str, Handler]) -> Mapping[str, object]:
    try:
        request = json.loads(line)
    except ValueError as error:
        raise ControlError("bad_request", f"not a JSON line: {error}") from error
    if not isinstance(request, dict) or not isinstance(request.get("op"), str):
        raise ControlError("bad_request", "a request is an object with an 'op'")
    op = request.pop("op")
    handler = handlers.get(op)
    if handler is None:
        raise ControlError("unknown_op", f"no operation {op!r}; there are {sorted(handlers)}")
    try:
        inspect.signature(handler).bind(**request)
    except TypeError as error:
        raise ControlError("bad_request", f"{op}: {error}") from error
    return handler(**request) or {}


class ControlClient:
    """Calls a control server. Thread-safe. Each call has a connection of its own, so that the
    server may be restarted between calls."""

    def __init__(self, path: Path, timeout_seconds: float = 60.0) -> None:
        self._path = path
        self._timeout_seconds = timeout_seconds

    def call(self, op: str, **arguments: object) -> dict[str, Any]:
        """Run ``op`` and return the answer's fields without ``ok``.

        Raises ControlError, with the server's kind, or with ``unreachable`` when no complete
        answer was received within the time limit.
        """
        request = json.dumps({"op": op, **arguments}).encode() + b"\n"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(self._timeout_seconds)
                connection.connect(os.fspath(self._path))
                connection.sendall(request)
                with connection.makefile("rb") as stream:
                    line = stream.readline()
        except OSError as error:
            raise ControlError("unreachable", f"{self._path}: {error}") from error
        if not line.endswith(b"\n"):
            raise ControlError("unreachable", f"{self._path}: closed before it answered {op!r}")
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise ControlError(answer["kind"], answer["message"])
        return answer
