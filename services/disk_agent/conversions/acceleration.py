"""Whether KVM works on this host, and the environment for libguestfs that depends on it.

``/dev/kvm`` may exist and open although guests hang, as with half-configured nested virtualisation.
So a kernel is booted once: without a root file system it panics and reboots, which ends qemu.
"""

import os
import threading
from collections.abc import Mapping
from pathlib import Path

import structlog

from services.disk_agent.host.commands import Commands
from services.disk_agent.host.errors import StateDamaged, ToolMissing, ToolTimeout
from services.disk_agent.host.state_file import read_state, write_state

_BOOT_SECONDS = 8.0
_QEMU_NAMES = ("qemu-system-x86_64", "/usr/libexec/qemu-kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_log = structlog.stdlib.get_logger(__name__)


class KvmProbe:
    """Tests KVM once per boot of the host, and keeps the result in a file. Methods block."""

    def __init__(
        self,
        commands: Commands,
        state_dir: Path,
        *,
        device: Path = Path("/dev/kvm"),
        boot: Path = Path("/boot"),
    ) -> None:
        self._commands = commands
        self._state_file = state_dir / "kvm.json"
        self._device = device
        self._boot = boot
        # A second caller waits for the result of the first.
        self._asking = threading.Lock()

    def works(self) -> bool:
        """Whether KVM works; takes a second where it does, 8 where it hangs."""
        boot_id = _BOOT_ID.read_text().strip()
        with self._asking:
            try:
                known = read_state(self._state_file)
            except StateDamaged:
                known = None  # The file is only a cache: test again.
            if isinstance(known, dict) and known.get("boot_id") == boot_id:
                return bool(known["works"])
            works = os.access(self._device, os.R_OK | os.W_OK) and self._boots()
            write_state(self._state_file, {"boot_id": boot_id, "works": works})
        _log.info("kvm probed", action="kvm.probed", works=works)
        return works

    def _boots(self) -> bool:
        kernels = [path for path in sorted(self._boot.glob("vmlinuz*")) if os.access(path, os.R_OK)]
        if not kernels:
            _log.warning("no kernel to probe KVM with", action="kvm.unproven", boot=str(self._boot))
            return True
        # fmt: off
        options = [
            "-machine", "accel=kvm", "-m", "256", "-display", "none", "-nodefaults", "-no-reboot",
            "-kernel", str(kernels[-1]), "-append", "panic=-1 quiet",
        ]
        # fmt: on
        for name in _QEMU_NAMES:
            try:
                done = self._commands.run([name, *options], timeout_seconds=_BOOT_SECONDS)
            except ToolMissing:
                continue
            except ToolTimeout:
                return False
            return done.status == 0
        return False


def libguestfs_environment(
    kvm: bool, environment: Mapping[str, str], cache_dir: Path
) -> dict[str, str]:
    """The environment variables for libguestfs; values that ``environment`` has are kept.

    ``direct``: without libvirt, whose qemu runs as a user that cannot read the images. Without KVM:
    emulation, and a kernel without mitigations, which an emulated processor does not need and which
    cost 13 % of the boot time. The cache directory is set because libguestfs would use TMPDIR, and
    building its appliance anew takes 12 s.
    """
    wanted = {"LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_CACHEDIR": str(cache_dir)}
    if not kvm:
        wanted["LIBGUESTFS_BACKEND_SETTINGS"] = "force_tcg"
        wanted["LIBGUESTFS_APPEND"] = "mitigations=off"
    return {name: environment.get(name, value) for name, value in wanted.items()}
