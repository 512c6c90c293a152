"""A relay in front of nbdkit, which keeps nbdkit's connections whole when clients are killed.

nbdkit 1.32 aborts, with all its disks, when a client disconnects while replies to several of its
requests are pending (``sock >= 0`` in connections.c; fixed in 1.34 by "server: Don't assert on
send if client hangs up early"). A real host survives that. Behind the relay nbdkit only sees the
end of the requests; it sends the pending replies, and the relay reads and drops them. If a client
is killed in the middle of a write request, nbdkit closes the connection itself; that is safe,
because the lab's guests have no other request pending then.

Runs inside nbdkit's process, so that both end together. Standard library only.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from threading import Thread

_BACKLOG = 128  # readers of a fleet connect at once
_CHUNK_BYTES = 256 * 1024  # a unix socket's default buffer is 208 KiB


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
    """Forward all data until the source ends; drop data that the sink no longer accepts."""
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
    """The number of bytes received; 0 at the end, also if the other end was killed."""
    try:
        return source.recv_into(buffer)
    except ConnectionResetError:
        return 0
