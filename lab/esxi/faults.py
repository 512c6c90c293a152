"""Faults that affect only readers through the VDDK, armed over the control socket."""

from __future__ import annotations

import errno
import itertools
import threading
from dataclasses import dataclass

from lab.esxi.model import DiskFault, EsxiError

KINDS = ("open_busy", "read_error", "disconnect", "latency")


@dataclass
class _Armed:
    fault: DiskFault
    left: int  # 0 = until cleared


class FaultTable:
    """The armed faults. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._armed: dict[int, _Armed] = {}

    def arm(self, fault: DiskFault) -> int:
        """Returns the fault's number. Raises EsxiError (``invalid_argument``)."""
        if fault.kind not in KINDS:
            raise EsxiError("invalid_argument", f"no fault {fault.kind!r}; there are {KINDS}")
        with self._lock:
            number = next(self._numbers)
            self._armed[number] = _Armed(fault, fault.count)
            return number

    def clear(self, number: int | None) -> None:
        """Disarm one fault, if it is still armed, or all."""
        with self._lock:
            if number is None:
                self._armed.clear()
            else:
                self._armed.pop(number, None)

    def check_open(self, vm: str, key: int) -> None:
        """Raises EsxiError (``nfc_busy``) if a fault refuses this open."""
        if self._take("open_busy", vm, key, 0, 0):
            raise EsxiError("nfc_busy", "no NFC connection is free")

    def check_read(self, vm: str, key: int, offset: int, length: int) -> int:
        """Milliseconds by which to delay this read. Raises OSError: EIO for an unreadable range,
        ESHUTDOWN if a fault drops the connection."""
        if not self._armed:
            return 0
        if self._take("disconnect", vm, key, offset, length):
            raise OSError(errno.ESHUTDOWN, "injected disconnect")
        if self._take("read_error", vm, key, offset, length):
            raise OSError(errno.EIO, "injected read error")
        latency = self._take("latency", vm, key, offset, length)
        return latency.milliseconds if latency else 0

    def _take(self, kind: str, vm: str, key: int, offset: int, length: int) -> DiskFault | None:
        with self._lock:
            for number, armed in self._armed.items():
                fault = armed.fault
                if fault.kind == kind and _concerns(fault, vm, key, offset, length):
                    if armed.left == 1:
                        del self._armed[number]
                    armed.left = max(0, armed.left - 1)
                    return fault
        return None


def _concerns(fault: DiskFault, vm: str, key: int, offset: int, length: int) -> bool:
    if fault.vm not in ("", vm) or fault.key not in (0, key):
        return False
    if fault.kind == "open_busy":  # an open has no range
        return True
    starts_before_end = not fault.length or offset < fault.offset + fault.length
    return starts_before_end and offset + length > fault.offset
