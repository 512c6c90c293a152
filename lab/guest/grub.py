"""Installs GRUB on a micro-guest: its modules, its core image and the boot code or ESP."""

import shutil
from pathlib import Path

from lab.guest.errors import MissingToolError
from lab.guest.layout import MIB, SECTOR_BYTES, Firmware, Layout
from lab.guest.tools import run_tool

_GRUB_DIRECTORY = Path("/usr/lib/grub")
_MODULES = (
    *("configfile", "echo", "ext2", "linux", "ls", "normal", "search", "search_fs_uuid"),
    *("serial", "terminal", "test"),
)
_TARGETS = {
    "bios": ("i386-pc", "grub-pc-bin", ("biosdisk", "part_msdos")),
    "uefi": ("x86_64-efi", "grub-efi-amd64-bin", ("fat", "part_gpt")),
}
_BOOT_CODE_BYTES = 440
"""The bytes of boot code in the first sector; the partition table follows them."""


def install_modules(root: Path, firmware: Firmware) -> None:
    """Copy GRUB's modules into the guest's ``/boot/grub/<target>``, as grub-install does.

    Raises MissingToolError when the host lacks GRUB for this firmware.
    """
    target, package, extra = _TARGETS[firmware]
    source = _target_directory(firmware)
    directory = root / "boot/grub" / target
    directory.mkdir(parents=True, exist_ok=True)
    for name in (*_MODULES, *extra, "boot", "relocator"):
        if not (source / f"{name}.mod").is_file():
            raise MissingToolError(f"GRUB's module {name} for {target}", package)
        shutil.copy(source / f"{name}.mod", directory)
    for listing in source.glob("*.lst"):
        shutil.copy(listing, directory)


def install_bios(disk: Path, layout: Layout, scratch: Path) -> None:
    """Write GRUB's boot code to the first sector of ``disk``, and its core image after it."""
    boot = (_target_directory("bios") / "boot.img").read_bytes()[:_BOOT_CODE_BYTES]
    core = _core_image("bios", scratch, f"(,msdos{layout.root.number})/boot/grub", None)
    content = core.read_bytes()
    if len(content) > layout.root.start_bytes - SECTOR_BYTES:
        raise ValueError(f"GRUB's core image of {len(content)} bytes does not fit before the root")
    with disk.open("r+b") as device:
        device.write(boot)
        # boot.img loads sector 1, and the core image's own block list starts at sector 2:
        # https://git.savannah.gnu.org/cgit/grub.git/tree/util/mkimage.c
        device.seek(SECTOR_BYTES)
        device.write(content)


def write_esp(disk: Path, layout: Layout, config: Path, scratch: Path) -> None:
    """Format the ESP on ``disk``, with GRUB as the fallback loader and its configuration."""
    if layout.esp is None:
        raise ValueError("this layout has no EFI system partition")
    early = scratch / "early.cfg"
    early.write_text("set prefix=($root)/EFI/debian\nconfigfile $prefix/grub.cfg\n")
    loader = _core_image("uefi", scratch, "/EFI/debian", early)
    esp = scratch / "esp.img"
    with esp.open("wb") as file:
        file.truncate(layout.esp.size_bytes)
    run_tool("mformat", ["-i", esp, "-T", str(layout.esp.size_bytes // SECTOR_BYTES), "::"])
    run_tool("mmd", ["-i", esp, "::/EFI", "::/EFI/BOOT", "::/EFI/debian"])
    run_tool("mcopy", ["-i", esp, loader, "::/EFI/BOOT/BOOTX64.EFI"])
    run_tool("mcopy", ["-i", esp, config, "::/EFI/debian/grub.cfg"])
    with disk.open("r+b") as device, esp.open("rb") as file:
        offset = 0
        while chunk := file.read(MIB):
            if chunk.strip(b"\0"):
                device.seek(layout.esp.start_bytes + offset)
                device.write(chunk)
            offset += len(chunk)


def _core_image(firmware: Firmware, scratch: Path, prefix: str, config: Path | None) -> Path:
    target, _, extra = _TARGETS[firmware]
    core = scratch / f"core.{target}"
    arguments: list[str | Path] = ["-O", target, "-d", _target_directory(firmware)]
    arguments += ["-o", core, "-p", prefix]
    if config is not None:
        arguments += ["-c", config]
    run_tool("grub-mkimage", [*arguments, *_MODULES, *extra])
    return core


def _target_directory(firmware: Firmware) -> Path:
    target, package, _ = _TARGETS[firmware]
    directory = _GRUB_DIRECTORY / target
    if not (directory / "normal.mod").is_file():
        raise MissingToolError(f"GRUB for {target}", package)
    return directory
