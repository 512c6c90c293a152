"""The plugin's parameters: names and meanings are those of nbdkit-vddk-plugin(1)."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from services.disk_agent.vddk.abi import (
    COMPRESSION,
    FLAG_READ_ONLY,
    FLAG_SINGLE_LINK,
    FLAG_UNBUFFERED,
)
from services.disk_agent.vddk.library import VddkError

TEXT_PARAMETERS = (
    "file",
    "libdir",
    "config",
    "server",
    "user",
    "thumbprint",
    "vm",
    "snapshot",
    "transports",
)
PORT_PARAMETERS = ("port", "nfchostport")
FLAG_PARAMETERS = ("unbuffered", "single-link")
PARAMETERS = (*TEXT_PARAMETERS, *PORT_PARAMETERS, *FLAG_PARAMETERS, "password", "compression")
REQUIRED = ("libdir", "file", "server", "user", "password", "vm")


class Settings:
    """The values of the parameters on nbdkit's command line."""

    def __init__(self) -> None:
        self.text = dict.fromkeys((*TEXT_PARAMETERS, "password"), "")
        self.number = dict.fromkeys(PORT_PARAMETERS, 0)
        self.open_flags = FLAG_READ_ONLY

    def take(self, key: str, value: str) -> None:
        """Accept one parameter. Raises VddkError."""
        if key in TEXT_PARAMETERS:
            self.text[key] = value
        elif key == "password":
            self.text[key] = _read_password(value)
        elif key in PORT_PARAMETERS:
            if not value.isdecimal() or not 0 < int(value) < 65536:
                raise VddkError(f"{key}={value}: a port is a number from 1 to 65535")
            self.number[key] = int(value)
        elif key == "compression":
            if value not in COMPRESSION:
                raise VddkError(f"compression={value}: it is one of {', '.join(COMPRESSION)}")
            self.open_flags |= COMPRESSION[value]
        elif key in FLAG_PARAMETERS:
            flag = FLAG_UNBUFFERED if key == "unbuffered" else FLAG_SINGLE_LINK
            self.open_flags |= flag if _boolean(key, value) else 0
        else:
            near = difflib.get_close_matches(key, PARAMETERS, 1)
            hint = f"did you mean {near[0]}=?" if near else f"there are {', '.join(PARAMETERS)}"
            raise VddkError(f"unknown parameter {key}=; {hint}")

    def check_complete(self) -> None:
        """Raise VddkError if required parameters are missing; its message names them."""
        missing = [key for key in REQUIRED if not self.text[key]]
        if missing:
            raise VddkError(f"missing parameters: {', '.join(f'{key}=' for key in missing)}")


def _boolean(key: str, value: str) -> bool:
    if value.lower() in ("1", "true", "t", "yes", "y", "on"):
        return True
    if value.lower() in ("0", "false", "f", "no", "n", "off"):
        return False
    raise VddkError(f"{key}={value}: it is true or false")


def _read_password(value: str) -> str:
    """The password: read from a file for ``+FILE``, from a descriptor for ``-FD``, else `value`."""
    try:
        if value.startswith("+"):
            content = Path(value[1:]).read_text()
        elif value.startswith("-"):
            with os.fdopen(int(value[1:])) as stream:
                content = stream.read()
        else:
            return value
    except (OSError, ValueError) as error:
        # The message may show the value: with + or - it is a name, not the secret.
        raise VddkError(f"password={value}: cannot read it: {error}") from None
    return content.removesuffix("\n")
