"""Request signatures as the management server computes them.

The rules are those of CloudStack 4.22's ``ApiServer.verifyRequest``: the
parameters but ``signature`` are sorted by their raw, case-sensitive name, each
value goes through Java's ``URLEncoder`` with ``+`` replaced by ``%20``, the
joined string is lowercased and signed with HMAC-SHA1.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote

from lab.cloudstack.errors import UNAUTHORIZED, ApiError

_REFUSED = "unable to verify user credentials and/or request signature"


def java_quote(value: str) -> str:
    """``value`` as Java's ``URLEncoder`` writes it, a space as ``%20``.

    Java does not quote ``A-Za-z0-9.-*_``; Python does quote ``*`` and does not quote ``~``.
    """
    return quote(value, safe="*").replace("~", "%7E")


def compute(parameters: Mapping[str, str], secret_key: str) -> str:
    """The base64 signature of ``parameters`` (decoded values, without ``signature``)."""
    joined = "&".join(
        f"{name}={java_quote(parameters[name])}"
        for name in sorted(parameters)
        if name != "signature"
    )
    # The protocol prescribes SHA-1.
    digest = hmac.new(secret_key.encode(), joined.lower().encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


def verify(parameters: Mapping[str, str], *, api_key: str, secret_key: str, now: datetime) -> None:
    """Accept a correctly signed request, version 3 with ``expires`` or the older form.

    Raises:
        ApiError: 401; as on the real server, its text does not name the part that is wrong.
    """
    signature = parameters.get("signature", "")
    if not signature or parameters.get("apiKey", parameters.get("apikey")) != api_key:
        raise ApiError(UNAUTHORIZED, _REFUSED)
    if parameters.get("signatureVersion", parameters.get("signatureversion")) == "3":
        _check_expiry(parameters.get("expires", ""), now)
    if not hmac.compare_digest(signature.encode(), compute(parameters, secret_key).encode()):
        raise ApiError(UNAUTHORIZED, _REFUSED)


def _check_expiry(expires: str, now: datetime) -> None:
    try:
        until = datetime.strptime(expires, "%Y-%m-%dT%H:%M:%S%z")
    except ValueError as error:
        raise ApiError(UNAUTHORIZED, _REFUSED) from error
    if until < now.astimezone(UTC):
        raise ApiError(UNAUTHORIZED, _REFUSED)
