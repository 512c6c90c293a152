"""Signed requests, as CloudStack's ``ApiServer.verifyRequest`` checks them (signature version 3).

The parameters are sorted by their raw, case-sensitive name; each value is encoded as Java's
``URLEncoder`` does, with ``%20`` for a space; the joined string is lowercased as a whole, after
the sort, and signed with HMAC-SHA1, which the protocol prescribes. If the names were lowercased
before the sort, ``details[0].UEFI`` and ``details[0].cpuNumber`` would change places.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import quote

# Long enough for clocks that differ by minutes; limits how long a recorded request can be replayed.
LIFETIME: Final = timedelta(minutes=10)


def encode(value: str) -> str:
    """`value` encoded like Java's URLEncoder: all but ``A-Za-z0-9.-*_`` is escaped, also ``~``."""
    return quote(value, safe="*").replace("~", "%7E")


def signature(parameters: Mapping[str, str], secret_key: str) -> str:
    """The base64 signature of the decoded `parameters`."""
    joined = "&".join(f"{name}={encode(parameters[name])}" for name in sorted(parameters))
    digest = hmac.new(secret_key.encode(), joined.lower().encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode("ascii")


def sign(
    command: str, parameters: Mapping[str, str], *, api_key: str, secret_key: str, now: datetime
) -> dict[str, str]:
    """All parameters of a request for `command`, valid from `now` (UTC) for `LIFETIME`."""
    full = {
        **parameters,
        "command": command,
        "response": "json",
        "apiKey": api_key,
        "signatureVersion": "3",
        "expires": (now + LIFETIME).strftime("%Y-%m-%dT%H:%M:%S+0000"),
    }
    return {**full, "signature": signature(full, secret_key)}
