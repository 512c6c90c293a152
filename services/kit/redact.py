"""Masks secrets in everything a process writes: by key, by registered value, by pattern."""

import base64
import json
import re
import threading
import urllib.parse
import xml.sax.saxutils
from collections.abc import Mapping

MASK = "***"

# Keys are compared in lower case, without "_", "-" and spaces; a key that ends in one of these
# names a secret too ("vcenter_password").
_SECRET_KEYS = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "secretkey",
    "apikey",
    "token",
    "authorization",
    "privatekey",
    "cookie",
    "signature",
    "credentials",
)
# A shorter secret is masked only where it is the whole text: it may occur in half of all lines.
_MIN_SEARCHED_LENGTH = 4

# All patterns take time linear in the text, because they also run over large output of programs.
_NAMED_VALUE = re.compile(
    r"(?i)((?:password|passwd|secret_?key|api_?key|token|signature)"
    r"[\"']?\s?[=:]\s?)(\"[^\"]*\"|'[^']*'|[^\s&,;]+)"
)
_URL_PASSWORD = re.compile(r"(://[^\s/:@]{1,256}:)[^\s/@]{1,256}(@)")
_BEARER = re.compile(r"(?i)\b(bearer\s+|basic\s+)[A-Za-z0-9._~+/=-]{8,}")


def is_secret_key(key: str) -> bool:
    """Whether a mapping's key names a secret, however it is spelled ("apiKey", "VC_PASSWORD")."""
    plain = re.sub(r"[\s_-]", "", key).lower()
    return plain.endswith(_SECRET_KEYS)


class Redactor:
    """Replaces secrets with ``***`` in strings and in nested values. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._registered: frozenset[str] = frozenset()
        self._exact: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None

    def register(self, secret: str) -> None:
        """Mask `secret` from now on, anywhere in text, also URL-, JSON-, XML- or base64-encoded.

        The empty string is ignored, so that an optional password can be registered as it is.
        Registering a secret again is cheap.
        """
        if not secret or secret in self._registered:
            return
        with self._lock:
            self._registered |= {secret}
            self._exact |= {secret, *_encodings(secret)}
            searched = sorted(
                (value for value in self._exact if len(value) >= _MIN_SEARCHED_LENGTH),
                key=len,
                reverse=True,
            )
            if searched:
                self._pattern = re.compile("|".join(map(re.escape, searched)))

    def text(self, text: str) -> str:
        """`text` with registered secrets, ``password=…`` pairs and credentials in URLs masked."""
        if text in self._exact:
            return MASK
        if self._pattern is not None:
            text = self._pattern.sub(MASK, text)
        text = _BEARER.sub(rf"\1{MASK}", text)
        text = _URL_PASSWORD.sub(rf"\1{MASK}\2", text)
        return _NAMED_VALUE.sub(rf"\1{MASK}", text)

    def value(self, value: object) -> object:
        """A masked copy of a nested value; bytes become their length, numbers stay as they are."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.item(str(key), entry) for key, entry in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(entry) for entry in value]
        if isinstance(value, bytes | bytearray | memoryview):
            return f"<{len(value)} bytes>"
        return value

    def item(self, key: str, value: object) -> object:
        """The masked value of one entry of a mapping; all of it if the key names a secret."""
        if value not in (None, "") and is_secret_key(key):
            return MASK
        return self.value(value)


def _encodings(secret: str) -> set[str]:
    return {
        urllib.parse.quote(secret, safe=""),
        urllib.parse.quote(secret),
        urllib.parse.quote_plus(secret),
        json.dumps(secret)[1:-1],
        xml.sax.saxutils.escape(secret),
        repr(secret)[1:-1],
        base64.b64encode(secret.encode()).decode(),
    }


# One per process: configuration registers its secrets here, logging and error mapping mask them.
redactor = Redactor()
