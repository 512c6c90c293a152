"""Field types that both files share: they turn the text of a YAML scalar into a value.

Validators raise `fault(…)`, whose message completes "<field>: …".
"""

import os
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError, PydanticUseDefault

__all__ = [
    "AbsolutePath",
    "Boolean",
    "BootMode",
    "BootType",
    "CloudStackEndpoint",
    "LocalTime",
    "NicAdapter",
    "Quiesce",
    "ResourceId",
    "RootDiskController",
    "Section",
    "ShutdownMode",
    "Thumbprint",
    "ZeroIsUnset",
    "fault",
]

FAULT = "v2c_fault"

_TRUE = frozenset({"true", "yes", "on"})
_FALSE = frozenset({"false", "no", "off"})
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}([.,]\d{1,6})?)?\s*([Zz]|[+-].+)?")
_ENDPOINT_PATH = "/client/api"


def fault(message: str, hint: str = "", *, at: tuple[str, ...] = ()) -> PydanticCustomError:
    """An error to raise in a validator; `at` leads from the validated value to the culprit."""
    return PydanticCustomError(FAULT, "{message}", {"message": message, "hint": hint, "at": at})


class Section(BaseModel):
    """A mapping of a file: frozen, unknown keys refused, empty values the same as absent ones.

    Users of the reference tool write ``clusterid: ""`` for "not given", and an empty section
    when they commented all of its keys out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def __eq__(self, other: object) -> bool:
        """Whether both have the same values; where they were read from does not count."""
        return type(self) is type(other) and self.__dict__ == other.__dict__

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, data: Any) -> Any:
        if data is None:
            return {}
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None and value != ""}
        return data


def _zero_is_unset(value: Any) -> Any:
    if isinstance(value, str | int) and str(value) == "0":
        raise PydanticUseDefault
    return value


# The reference tool reads 0 as "not given"; so do we where 0 has no meaning of its own.
ZeroIsUnset = BeforeValidator(_zero_is_unset)


def _boolean(value: Any) -> Any:
    text = value.lower() if isinstance(value, str) else value
    if text in _TRUE:
        return True
    return False if text in _FALSE else value


Boolean = Annotated[bool, BeforeValidator(_boolean)]


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _upper(value: Any) -> Any:
    return value.strip().upper() if isinstance(value, str) else value


def _quiesce(value: Any) -> Any:
    boolean = _boolean(value)
    return str(boolean).lower() if isinstance(boolean, bool) else _lower(value)


def _root_disk_controller(value: Any) -> Any:
    # The reference tool's UI offers "virtio-scsi"; CloudStack calls the same controller "scsi".
    return "scsi" if _lower(value) == "virtio-scsi" else _lower(value)


Quiesce = Annotated[Literal["auto", "true", "false"], BeforeValidator(_quiesce)]
ShutdownMode = Annotated[Literal["auto", "force", "manual"], BeforeValidator(_lower)]
BootType = Annotated[Literal["BIOS", "UEFI"], BeforeValidator(_upper)]
BootMode = Annotated[Literal["LEGACY", "SECURE"], BeforeValidator(_upper)]
# The values CloudStack's KVM agent knows for rootDiskController and nicAdapter.
RootDiskController = Annotated[
    Literal["osdefault", "ide", "scsi", "virtio", "virtio-blk", "sata"],
    BeforeValidator(_root_disk_controller),
]
NicAdapter = Annotated[
    Literal["virtio", "e1000", "rtl8139", "vmxnet3", "ne2k_pci"], BeforeValidator(_lower)
]


class _IdMarker:
    """Marks fields that hold the id of a CloudStack object."""


def _strip(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not value.strip():
        raise PydanticUseDefault
    return value.strip()


ID_MARKER = _IdMarker()
ResourceId = Annotated[str, BeforeValidator(_strip), ID_MARKER]


def _absolute(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str):
        return value
    base_dir: Path = (info.context or {}).get("base_dir", Path())
    return Path(os.path.abspath(base_dir / Path(value).expanduser()))


# A relative path is taken from the folder of the file that names it, so that the meaning of a
# config does not depend on where a command was typed.
AbsolutePath = Annotated[Path, BeforeValidator(_absolute)]


def _thumbprint(value: Any) -> Any:
    """SHA-1 or SHA-256 of the leaf certificate as lower-case hex without colons."""
    if not isinstance(value, str):
        return value
    digits = re.sub(r"[:\s-]", "", value).lower()
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", digits):
        raise fault(
            "is not a certificate thumbprint: 40 (SHA-1) or 64 (SHA-256) hexadecimal digits are "
            "expected",
            "Print it with: openssl s_client -connect HOST:443 </dev/null | openssl x509 -noout "
            "-fingerprint -sha256",
        )
    return digits


Thumbprint = Annotated[str, BeforeValidator(_thumbprint)]


def _local_time(value: Any) -> Any:
    """RFC 3339, or ISO 8601 local time with or without seconds, as an aware datetime."""
    if not isinstance(value, str):
        return value
    hint = "Write 2026-03-12T23:30 (local time) or 2026-03-12T23:30:00+01:00."
    if not _TIME.fullmatch(value.strip()):
        raise fault("is not a date and time", hint)
    try:
        # upper(): fromisoformat takes "Z" but not RFC 3339's lower-case "z".
        moment = datetime.fromisoformat(re.sub(r"\s+(?=[Z+-])", "", value.strip().upper()))
    except ValueError as exc:
        raise fault(f"is not a date and time ({exc})", hint) from exc
    return moment.astimezone()


LocalTime = Annotated[datetime, BeforeValidator(_local_time)]


def _endpoint(value: Any) -> Any:
    """``host``, ``host:port`` or a URL, as the full URL of CloudStack's API.

    No scheme means http, as in the reference tool; a URL without a path gets /client/api.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    hint = "Write host, host:port, or https://host/client/api."
    if "://" not in text:
        text = f"http://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as exc:
        raise fault(f"is not an endpoint ({exc})", hint) from exc
    if parts.scheme not in {"http", "https"}:
        raise fault(f"has the scheme {parts.scheme!r}, expected http or https", hint)
    if not parts.hostname or re.search(r"\s", text):
        raise fault("names no host", hint)
    if parts.username is not None or parts.query or parts.fragment:
        raise fault("must be a plain URL, without user, ? or #", hint)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    authority = host if port is None else f"{host}:{port}"
    return f"{parts.scheme}://{authority}{parts.path.rstrip('/') or _ENDPOINT_PATH}"


CloudStackEndpoint = Annotated[str, BeforeValidator(_endpoint)]
