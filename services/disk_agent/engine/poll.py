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


class PollLoop:
    """Lets the state machines of its connections make progress, in one thread."""

    def __init__(self, endpoints: Sequence[Endpoint], control: Control) -> None:
        self._endpoints = {endpoint.handle.aio_get_fd(): endpoint for endpoint in endpoints}
        self._control = control
        self._control_fd = control.fileno()
        self._poll = select.poll()
        self._events = dict.fromkeys(self._endpoints, select.POLLIN)
        for fd, events in self._events.items():
            self._poll.register(fd, events)
        if self._control_fd >= 0:
            self._poll.register(self._control_fd, select.POLLIN)

    def wait(self, timeout_seconds: float) -> None:
        """Wait for a completion or a wish, at most so long. Parts of replies wake nobody.

        Raises SourceLost or TargetFailed when a connection is dead.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            self._watch_directions()
            happened = self._poll.poll(timeout_seconds * 1000)
            completed = not happened
            for fd, events in happened:
                if fd == self._control_fd:
                    self._control.receive()
                    return
                endpoint = self._endpoints[fd]
                _notify(endpoint, events)
                if endpoint.completions:
                    completed = True
            if completed:
                return
            timeout_seconds = max(deadline - time.monotonic(), 0.0)

    def _watch_directions(self) -> None:
        for fd, endpoint in self._endpoints.items():
            # A connection that is dead or closed has no direction.
            wanted = _DIRECTIONS.get(endpoint.handle.aio_get_direction())
            if wanted is None:
                raise endpoint.failure(errno.ECONNRESET)
            if wanted != self._events[fd]:
                self._poll.modify(fd, wanted)
                self._events[fd] = wanted


def _notify(endpoint: Endpoint, happened: int) -> None:
    handle = endpoint.handle
    try:
        # One step at a time: reading may change whether the handle wants to write.
        if happened & ~select.POLLOUT:
            handle.aio_notify_read()
        elif handle.aio_get_direction() & nbd.AIO_DIRECTION_WRITE:
            handle.aio_notify_write()
    except nbd.Error as error:
        raise endpoint.failure(error.errnum or errno.EIO, error.string) from error
