"""gRPC's messages about a connection that failed, rewritten so that an operator can act on them."""

import re
import urllib.parse

# The messages of gRPC's core in grpcio 1.85; any other text is passed on unchanged.
_CONNECT = re.compile(
    r"failed to connect to all addresses; last error: [A-Z_]+: "
    r"(?P<address>unix:\S+|ipv[46]:\S+):\s(?P<cause>.*)",
    re.DOTALL,
)
_HANDSHAKE = re.compile(r"Tls handshake failed.*OPENSSL_internal:(?P<name>\w+)")
_CAUSE_PREFIX = re.compile(r"^(?:Failed to connect to remote host: |connect failed: .*error: )")
_RESOLVE = re.compile(r"errors resolving (?P<address>\S+): .*: (?P<cause>[^:\]]+)\]?$")

_MEANINGS = {
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not of our CA or not for this name",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "Socket closed": "it closed the connection, as it does when the certificate shown to it is not "
    "of its CA or is missing",
    "No such file or directory": "nothing listens there",
    "Connection refused": "nothing listens there",
}


def readable(peer: str, details: str) -> str:
    """One sentence with the address and the cause: "vmware agent cannot be reached at …: …"."""
    found = _CONNECT.match(details) or _RESOLVE.match(details)
    if found is None:
        return f"{peer}: {details}"
    address = re.sub(r"^ipv[46]:", "", urllib.parse.unquote(found["address"]))
    cause = _CAUSE_PREFIX.sub("", found["cause"]).strip()
    if handshake := _HANDSHAKE.search(cause):
        cause = f"TLS: {handshake['name']}"
        meaning = _MEANINGS.get(handshake["name"])
    else:
        meaning = _MEANINGS.get(cause)
    explained = f"{meaning} ({cause})" if meaning else cause
    return f"{peer} cannot be reached at {address}: {explained}"
