"""A relay in front of nbdkit: a client that is killed leaves here, not in the middle of a reply.

nbdkit 1.32 aborts, and takes every disk with it, when a client goes away while replies to several
of its requests are due (``sock >= 0`` in connections.c; fixed in 1.34 by "server: Don't assert on
send if client hangs up early"). A real host survives that. Behind the relay a connection never
breaks: nbdkit sees the end of the requests, answers what it has, and all of that is taken, wanted
or not. Only a write torn in the middle is an error that nbdkit meets by breaking off itself; the
lab's guests have nothing else in flight then.

Inside nbdkit's process, so that both end together. Standard library only.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from threading import Thread

_BACKLOG = 128  # readers of a fleet come at once
_CHUNK_BYTES = 256 * 1024  # a unix socket holds 208 KiB unless the machine is set up otherwise


def serve_relay(path: Path, nbdkit_socket: Path) -> None:
    """Listen on ``path`` and pass every client on to nbdkit, until the process ends."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(os.fspath(path))
    listener.listen(_BACKLOG)
    Thread(target=_accept, args=(listener, nbdkit_socket), name="relay", daemon=True).start()


def _accept(listener: socket.socket, nbdkit_socket: Path) -> None:
    while True:
        client, _ = listener.accept()
        Thread(target=_relay, args=(client, nbdkit_socket), name="relay", daemon=True).start()


def _relay(client: socket.socket, nbdkit_socket: Path) -> None:
    with client, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.connect(os.fspath(nbdkit_socket))
        requests = Thread(target=_forward, args=(client, server), name="relay", daemon=True)
        requests.start()
        _forward(server, client)
        requests.join()


def _forward(source: socket.socket, sink: socket.socket) -> None:
    """Pass everything on until the source ends; what the sink no longer takes is dropped."""
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    taken = True
    while length := _receive(source, buffer):
        if taken:
            try:
                sink.sendall(buffer[:length])
            except OSError:
                taken = False
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _receive(source: socket.socket, buffer: memoryview) -> int:
    """How much came; 0 when there is no more, also because the other end was killed."""
    try:
        return source.recv_into(buffer)
    except ConnectionResetError:
        return 0
