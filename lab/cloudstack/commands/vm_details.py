"""The details of a VM: sizes of custom offerings, device models, firmware."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from lab.cloudstack.errors import parameter_error
from lab.cloudstack.store import Row

_DISK_CONTROLLERS: Final = frozenset({"osdefault", "ide", "scsi", "virtio", "virtio-blk", "sata"})
_VALUES: Final[Mapping[str, frozenset[str]]] = {
    "rootDiskController": _DISK_CONTROLLERS,
    "dataDiskController": _DISK_CONTROLLERS,
    "nicAdapter": frozenset({"virtio", "e1000", "rtl8139", "vmxnet3", "ne2k_pci"}),
    "UEFI": frozenset({"LEGACY", "SECURE"}),
    "BIOS": frozenset({"LEGACY"}),
}
_SIZES: Final = ("cpuNumber", "memory", "cpuSpeed")
_EXACT: Final = {key.lower(): key for key in (*_VALUES, *_SIZES)}


def check_details(details: Mapping[str, str]) -> None:
    """Refuse keys and values that the real server stores but ignores at start.

    Keys are case-sensitive there: ``uefi`` is stored and never read, and the guest
    boots with a BIOS. This server's strict mode refuses such a key at once.
    """
    for key, value in details.items():
        exact = _EXACT.get(key.lower(), key)
        if key != exact:
            raise parameter_error(f"Detail {key} must be written {exact} (strict mode)")
        allowed = _VALUES.get(key)
        if allowed is not None and value not in allowed:
            raise parameter_error(
                f"Detail {key} has no value {value}; it has {', '.join(sorted(allowed))}"
                " (strict mode)"
            )


def check_offering(offering: Row, details: Mapping[str, str]) -> None:
    """Refuse details that do not complete a custom offering (431)."""
    if not offering.get("iscustomized"):
        return
    limits = offering.get("serviceofferingdetails", {})
    for key in _SIZES:
        if key == "cpuSpeed" and offering.get("cpuspeed"):
            continue
        number = _integer(key, details)
        low = int(limits.get("min" + key.lower(), 1))
        high = int(limits.get("max" + key.lower(), 2147483647))
        if not low <= number <= high:
            label = {"cpuNumber": "CPU cores", "memory": "memory", "cpuSpeed": "CPU speed"}[key]
            raise parameter_error(
                f"Invalid {label} value, specify a value between {low} and {high}"
            )


def _integer(key: str, details: Mapping[str, str]) -> int:
    if key not in details:
        raise parameter_error(f"Detail '{key}' must be provided.")
    try:
        return int(details[key])
    except ValueError as error:
        raise parameter_error(
            f"Please provide a valid integer value for detail '{key}'."
        ) from error
