"""Boots a disk in qemu, to test whether its guest starts from a bus.

The disk is never written to, and the machine has no network.
"""

import os
import re
import selectors
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lab.guest.errors import MissingToolError
from lab.guest.layout import Firmware
from lab.guest.tools import find_tool

Bus = Literal["pvscsi", "virtio-blk", "virtio-scsi"]

_BUS_OPTIONS = {
    # VMware's paravirtual SCSI adapter.
    "pvscsi": ("pvscsi,id=bus", "scsi-hd,drive=disk0,bus=bus.0,bootindex=0"),
    "virtio-blk": ("virtio-blk-pci,drive=disk0,bootindex=0",),
    "virtio-scsi": ("virtio-scsi-pci,id=bus", "scsi-hd,drive=disk0,bus=bus.0,bootindex=0"),
}
_UP = re.compile(rb"\S+ login:")
_DEAD = re.compile(rb"no root device|cannot mount root|Kernel panic|No bootable device")
_OVMF = (
    (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")),
    (Path("/usr/share/OVMF/OVMF_CODE.fd"), Path("/usr/share/OVMF/OVMF_VARS.fd")),
)
_LATE_SECONDS = 0.2


@dataclass(frozen=True)
class BootResult:
    """Whether a login prompt appeared, after how long, and the serial console's output."""

    booted: bool
    seconds: float
    console: str


def boot(
    image: Path,
    bus: Bus,
    *,
    image_format: Literal["raw", "qcow2"] = "qcow2",
    firmware: Firmware = "bios",
    data_disks: Sequence[Path] = (),
    timeout_seconds: float = 120.0,
    now: Callable[[], float] = time.monotonic,
) -> BootResult:
    """Boot a disk from a bus until its serial console shows a login prompt, or a failure.

    The processor is emulated, which works on all hosts; a micro-guest takes about 9 s. Debian's
    UEFI firmware has no driver for pvscsi: a UEFI guest boots only after its conversion.
    ``data_disks`` are QCOW2 files that are attached to virtio. Raises MissingToolError without
    qemu, or without OVMF for UEFI.
    """
    # fmt: off
    command = [
        str(find_tool("qemu-system-x86_64")), "-machine", "q35,accel=tcg", "-m", "512",
        "-display", "none", "-nodefaults", "-nic", "none", "-no-reboot", "-serial", "stdio",
        # Writes go to a temporary file.
        "-snapshot", "-drive", f"if=none,id=disk0,format={image_format},file={_escape(image)}",
    ]
    # fmt: on
    for device in _BUS_OPTIONS[bus]:
        command += ["-device", device]
    for number, path in enumerate(data_disks, start=1):
        command += ["-drive", f"if=none,id=disk{number},format=qcow2,file={_escape(path)}"]
        command += ["-device", f"virtio-blk-pci,drive=disk{number}"]
    if firmware == "uefi":
        command += _uefi_options()
    started = now()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            console = _read_console(process, started + timeout_seconds, now)
        finally:
            process.kill()
    return BootResult(
        booted=bool(_UP.search(console)),
        seconds=now() - started,
        console=console.decode(errors="replace"),
    )


def _read_console(
    process: subprocess.Popen[bytes], deadline: float, now: Callable[[], float]
) -> bytes:
    """Read the console until the boot has succeeded or failed, or the time is up."""
    if process.stdout is None:
        raise TypeError("no console of qemu")
    console = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left := deadline - now()) > 0:
            if not selector.select(left):
                break
            chunk = os.read(process.stdout.fileno(), 65536)
            console += chunk
            if not chunk:
                break
            if _UP.search(console) or _DEAD.search(console):
                # Read on for a moment: the line with the failure may not be complete.
                deadline = min(deadline, now() + _LATE_SECONDS)
    return console


def _uefi_options() -> list[str]:
    for code, variables in _OVMF:
        if code.exists() and variables.exists():
            return [
                *("-drive", f"if=pflash,format=raw,readonly=on,file={code}"),
                # -snapshot discards changes of this drive, too.
                *("-drive", f"if=pflash,format=raw,file={variables}"),
            ]
    raise MissingToolError("the UEFI firmware for qemu", "ovmf")


def _escape(path: Path) -> str:
    # qemu's option syntax: a comma in a value is doubled.
    return str(path.absolute()).replace(",", ",,")
