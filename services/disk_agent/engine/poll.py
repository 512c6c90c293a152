"""One poll loop over several NBD connections and a control descriptor."""

import errno
import select
import time
from collections.abc import Sequence

import nbd

from services.disk_agent.engine.control import Control
from services.disk_agent.engine.endpoint import Endpoint

_DIRECTIONS = {
    nbd.AIO_DIRECTION_READ: select.POLLIN,
    nbd.AIO_DIRECTION_WRITE: select.POLLOUT,
    nbd.AIO_DIRECTION_BOTH: select.POLLIN | select.POLLOUT,
}


# A reply of 1 MiB arrives in about ten parts; after this many `wait` returns to the engine.
_PARTS = 64


class _Watched:
    """A connection and the directions in which its descriptor is polled."""

    __slots__ = ("direction", "endpoint", "fd")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.fd = endpoint.handle.aio_get_fd()
        self.direction = nbd.AIO_DIRECTION_READ


class PollLoop:
    """Drives the state machines of its connections, in one thread."""

    def __init__(self, endpoints: Sequence[Endpoint], control: Control) -> None:
        self._watched = [_Watched(endpoint) for endpoint in endpoints]
        self._by_fd = {watched.fd: watched.endpoint for watched in self._watched}
        self._control = control
        self._control_fd = control.fileno()
        self._poll = select.poll()
        for fd in self._by_fd:
            self._poll.register(fd, select.POLLIN)
        if self._control_fd >= 0:
            self._poll.register(self._control_fd, select.POLLIN)

    def wait(self, timeout_seconds: float) -> None:
        """Wait for a completion, a command or the timeout; a part of a reply does not end the wait.

        Raises SourceLost or TargetFailed when a connection is dead.
        """
        deadline = 0.0
        for _ in range(_PARTS):
            completed = False
            for watched in self._watched:
                endpoint = watched.endpoint
                # Other requests may have completed during a blocking call, such as for extents.
                completed |= bool(endpoint.completions)
                direction = endpoint.handle.aio_get_direction()
                if direction != watched.direction:
                    self._turn(watched, direction)
            if completed:
                return
            happened = self._poll.poll(timeout_seconds * 1000)
            for fd, events in happened:
                if fd == self._control_fd:
                    self._control.receive()
                    return
                endpoint = self._by_fd[fd]
                _notify(endpoint, events)
                completed |= endpoint.collect()
            if completed or not happened:
                return
            now = time.monotonic()
            # Counted from the end of the first poll: most calls end with it and need no clock.
            deadline = deadline or now + timeout_seconds
            timeout_seconds = max(deadline - now, 0.0)

    def _turn(self, watched: _Watched, direction: int) -> None:
        events = _DIRECTIONS.get(direction)
        # A connection that is dead or closed has no direction.
        if events is None:
            raise watched.endpoint.failure(errno.ECONNRESET)
        self._poll.modify(watched.fd, events)
        watched.direction = direction


def _notify(endpoint: Endpoint, happened: int) -> None:
    handle = endpoint.handle
    try:
        # Either a read or a write: after reading, the handle may no longer want to write.
        if happened & ~select.POLLOUT:
            handle.aio_notify_read()
        elif handle.aio_get_direction() & nbd.AIO_DIRECTION_WRITE:
            handle.aio_notify_write()
    except nbd.Error as error:
        raise endpoint.failure(error.errnum or errno.EIO, error.string) from error
