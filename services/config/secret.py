"""Secrets in a config: given plainly or by reference, shown never."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import BaseModel, BeforeValidator, SecretStr, ValidationInfo

from services.config.problems import ConfigError, Problem
from services.kit.redact import is_secret_key, redactor

__all__ = ["Secret", "SecretUrl", "mask_secrets", "secret_field"]

_HIDDEN = "**********"


class Secret(SecretStr):
    """A secret that is read when it is used: `get_secret_value()`.

    ``env:NAME`` reads an environment variable, ``file:PATH`` a file (its last line end is
    dropped), anything else is the secret itself (``plain:`` in front lets it start with one of
    those words). References are resolved late, so that one config file serves several hosts of
    which each holds only its own secrets.
    """

    def __init__(
        self, reference: str, field: str = "", source: str = "", base_dir: Path = Path()
    ) -> None:
        super().__init__(reference)
        self._field = field
        self._source = source
        self._base_dir = base_dir

    def get_secret_value(self) -> str:
        """The secret. Raises ConfigError when the variable or file it refers to is missing.

        From now on this process masks it in all it writes: a file's secret may have changed since
        the process started.
        """
        value = self._resolved()
        for part in self._hidden_parts(value):
            redactor.register(part)
        return value

    def expanded(self, placeholder: str, text: str) -> Self:
        """The same secret with `placeholder` replaced in it."""
        reference = self._secret_value.replace(placeholder, text)
        return type(self)(reference, self._field, self._source, self._base_dir)

    def shown(self) -> str:
        """What a person may see: the reference, or stars for a plain secret."""
        if self._secret_value.startswith(("env:", "file:")):
            return self._secret_value
        return _HIDDEN if self._secret_value else ""

    def _hidden_parts(self, value: str) -> Iterator[str]:
        """What of the resolved `value` nobody may see."""
        yield value

    def _resolved(self) -> str:
        kind, separator, rest = self._secret_value.partition(":")
        if not separator or kind not in {"env", "file", "plain"}:
            return self._secret_value
        if kind == "plain":
            return rest
        if kind == "env":
            value = os.environ.get(rest)
            if value:
                return value
            raise self._unavailable(
                f"the environment variable {rest} is not set or empty",
                f"Set {rest} for the process, or give {self._field} as file:PATH.",
            )
        path = self._base_dir / Path(rest).expanduser()
        try:
            return path.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
            raise self._unavailable(
                f"the file {path} cannot be read: {(reason or 'unknown reason').lower()}",
                "Create it with mode 0600, readable by the user this process runs as.",
            ) from exc

    def _display(self) -> str:
        return self.shown()

    def _unavailable(self, message: str, hint: str) -> ConfigError:
        return ConfigError((Problem(self._source, 0, 0, self._field, "", message, hint),))


class SecretUrl(Secret):
    """A URL that may hold a password: everything but its password and its query may be seen."""

    def shown(self) -> str:
        """The URL with stars for what is secret in it, or the reference."""
        if self._secret_value.startswith(("env:", "file:")):
            return self._secret_value
        url = re.sub(r"\?.*", f"?{_HIDDEN}", self._secret_value)
        return re.sub(r"(?<=//)([^/:@]*):.*@", rf"\1:{_HIDDEN}@", url)

    def _hidden_parts(self, value: str) -> Iterator[str]:
        try:
            url = urlsplit(value)
        except ValueError:
            yield value  # Not a URL: nobody knows which part of it is the secret.
            return
        if url.password:
            yield url.password
            yield unquote(url.password)
        yield from (given for key, given in parse_qsl(url.query) if is_secret_key(key))


def mask_secrets(section: BaseModel) -> None:
    """Have this process mask every secret below `section` in all it writes.

    A secret whose variable or file this process does not have is left out: it cannot leak here.
    """
    for _, value in section:
        if isinstance(value, Secret):
            with contextlib.suppress(ConfigError):
                value.get_secret_value()
        elif isinstance(value, BaseModel):
            mask_secrets(value)


def secret_field(field: str, kind: type[Secret] = Secret) -> BeforeValidator:
    """An annotation for a secret that knows its own `field` name for error messages."""

    def build(value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        context = info.context or {}
        return kind(value, field, context.get("source", ""), context.get("base_dir", Path()))

    return BeforeValidator(build)
