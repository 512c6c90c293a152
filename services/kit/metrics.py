"""Prometheus metrics of RPCs, and the small HTTP server they are scraped from."""

import socket
from types import TracebackType
from typing import Self

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram

from services.kit.address import AddressInUseError, InvalidAddressError, TcpAddress, parse_address

# From a cached lookup to a call that waits for a vCenter task.
_SECONDS_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

RPC_TOTAL = Counter(
    "v2c_rpc_total", "Finished RPCs by final status code", ("service", "method", "code")
)
# A stream lasts as long as its client watches, which is no latency: only unary calls are measured.
RPC_SECONDS = Histogram(
    "v2c_rpc_seconds", "Duration of unary RPCs", ("service", "method"), buckets=_SECONDS_BUCKETS
)
RPC_STREAMS = Gauge("v2c_rpc_open_streams", "Streams being served now", ("service", "method"))


class MetricsServer:
    """Serves ``GET /metrics`` in a thread of its own, so that it answers while the loop is busy.

    Raises InvalidAddressError for a unix socket, AddressInUseError when the port is taken.
    """

    def __init__(self, listen: str) -> None:
        address = parse_address(listen)
        if not isinstance(address, TcpAddress):
            raise InvalidAddressError(message=f"metrics need host:port, not {listen!r}")
        try:
            self._server, self._thread = prometheus_client.start_http_server(
                address.port, addr=address.host or _every_interface()
            )
        except OSError as exc:
            raise AddressInUseError(message=f"metrics cannot listen on {listen}: {exc}") from exc
        self.address = TcpAddress(address.host, self._server.server_port)

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _every_interface() -> str:
    return "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104 - asked for by ":port"
