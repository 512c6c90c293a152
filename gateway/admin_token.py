"""The admin token: made at the first start, printed once, kept as a hash."""

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from services.kit.failure import Code, ServiceError
from services.kit.redact import redactor

_FILE_NAME = "admin_token.sha256"
_TOKEN_BYTES = 32
# A token that an operator chooses must be too long to be found by trying.
_MIN_CHOSEN_LENGTH = 20


class AdminTokenUnusable(ServiceError):
    """The file with the admin token's hash cannot be used, or the token chosen is too short."""

    code = Code.FAILED_PRECONDITION
    reason = "ADMIN_TOKEN_UNUSABLE"
    hint = "remove the file to have a new token made, or set V2C_ADMIN_TOKEN to one of your own"


@dataclass(frozen=True)
class AdminToken:
    """Checks tokens. Holds the SHA-256 of the right one; 256 random bits need no slow hash."""

    digest: bytes

    def matches(self, presented: str) -> bool:
        """Whether this is the token; takes the same time whatever is presented."""
        return hmac.compare_digest(hashlib.sha256(presented.encode()).digest(), self.digest)


def chosen_token(token: str) -> AdminToken:
    """The token an operator chose (V2C_ADMIN_TOKEN). Raises AdminTokenUnusable when it is weak."""
    if len(token) < _MIN_CHOSEN_LENGTH:
        raise AdminTokenUnusable(
            f"V2C_ADMIN_TOKEN has fewer than {_MIN_CHOSEN_LENGTH} characters",
            hint="make one with `openssl rand -base64 32`, or unset it to have one made",
        )
    redactor.register(token)
    return AdminToken(hashlib.sha256(token.encode()).digest())


def load_or_create_token(directory: Path) -> tuple[AdminToken, str | None]:
    """The stored token, or a new one; its text comes back only when it was made just now.

    Only the hash is stored, in `directory` (0700), file mode 0600. Blocking.

    Raises AdminTokenUnusable when the file is damaged or cannot be written.
    """
    path = directory / _FILE_NAME
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            return AdminToken(_parse(path)), None
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        redactor.register(token)
        digest = hashlib.sha256(token.encode())
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(digest.hexdigest() + "\n")
    except OSError as exc:
        raise AdminTokenUnusable(
            f"the admin token cannot be kept in {path}: {exc.strerror or exc}",
            hint="give this user the directory (migration.control_dir), or set V2C_ADMIN_TOKEN",
        ) from exc
    return AdminToken(digest.digest()), token


def _parse(path: Path) -> bytes:
    try:
        digest = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise AdminTokenUnusable(
            f"{path} does not hold a token's hash",
            hint="remove it: a new token is made and printed at the next start",
        )
    return digest
