"""The micro-guest's files, as a directory that mke2fs copies into the root file system."""

import shutil
from pathlib import Path
from uuid import UUID

from lab.guest.kernel import HostKernel, install_kernel
from lab.guest.layout import Firmware, Layout
from lab.guest.tools import find_tool, run_tool

SKELETON = Path(__file__).parent / "rootfs"

_DIRECTORIES = (
    *("bin", "boot/grub", "dev", "etc/modprobe.d", "proc", "root", "run", "sbin", "sys", "tmp"),
    *("usr/lib", "var/lib/dpkg/info", "var/log"),
)


def populate(root: Path, kernel: HostKernel, layout: Layout, root_uuid: UUID) -> None:
    """Fill the empty directory ``root`` with everything but GRUB's own files."""
    shutil.copytree(SKELETON, root, dirs_exist_ok=True)
    for name in _DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    _install_busybox(root)
    install_kernel(kernel, root)
    (root / "etc/mtab").symlink_to("/proc/mounts")
    _fill_in(root / "etc/default/grub", root_uuid)
    _write_fstab(root, layout)
    _write_packages(root, kernel)
    _run_guest_script(root, "update-initramfs", "-c", "-k", kernel.version)


def write_grub_config(root: Path, config: str) -> None:
    """Write ``config``, a path inside the guest, with the guest's own grub-mkconfig."""
    (root / config.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
    _run_guest_script(root, "grub-mkconfig", "-o", config)


def grub_config_path(firmware: Firmware) -> str:
    """The path where virt-v2v looks for GRUB's configuration; with UEFI it is on the ESP."""
    return "/boot/grub/grub.cfg" if firmware == "bios" else "/boot/efi/EFI/debian/grub.cfg"


def _install_busybox(root: Path) -> None:
    shutil.copy(find_tool("busybox"), root / "bin/busybox")
    applets = run_tool("busybox", ["--list-full"]).split()
    for applet in applets:
        target = root / applet
        target.parent.mkdir(parents=True, exist_ok=True)
        # Scripts of the guest are not replaced by busybox.
        if not target.exists() and target.name != "dpkg":
            target.symlink_to("/bin/busybox")


def _fill_in(path: Path, root_uuid: UUID) -> None:
    path.write_text(path.read_text().replace("@ROOT_UUID@", str(root_uuid)))


def _write_fstab(root: Path, layout: Layout) -> None:
    # Device names, not UUIDs: a conversion has to map them to the new bus.
    lines = [f"/dev/sda{layout.root.number} / ext4 errors=remount-ro 0 1"]
    if layout.esp is not None:
        (root / "boot/efi").mkdir(parents=True, exist_ok=True)
        lines.append(f"/dev/sda{layout.esp.number} /boot/efi vfat umask=0077 0 2")
    (root / "etc/fstab").write_text("\n".join(lines) + "\n")


def _write_packages(root: Path, kernel: HostKernel) -> None:
    modules = f"/lib/modules/{kernel.version}"
    packages = {
        f"linux-image-{kernel.version}": [
            "/boot",
            f"/boot/config-{kernel.version}",
            f"/boot/vmlinuz-{kernel.version}",
            "/lib/modules",
            modules,
        ],
        # Without this package a conversion adds a service that installs it at first boot, which
        # takes 3 s without KVM and fails in a guest without network.
        "qemu-guest-agent": ["/usr"],
        "open-vm-tools": ["/etc/init.d", "/etc/init.d/vmware-tools"],
    }
    database = root / "var/lib/dpkg"
    status = []
    for name, files in packages.items():
        (database / "info" / f"{name}.list").write_text("\n".join(files) + "\n")
        status.append(
            f"Package: {name}\nStatus: install ok installed\nPriority: optional\n"
            "Section: admin\nMaintainer: The lab\nArchitecture: amd64\nVersion: 1.0-1\n"
            f"Description: {name} of the micro-guest\n"
        )
    (database / "status").write_text("\n".join(status) + "\n")


def _run_guest_script(root: Path, script: str, *arguments: str) -> None:
    # The conversion runs the same scripts inside the guest.
    run_tool("busybox", ["sh", root / "usr/sbin" / script, *arguments], env={"ROOT": str(root)})
