"""The host's kernel, which is also the micro-guest's."""

import lzma
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from lab.guest.errors import GuestBuildError, MissingToolError

_PACKAGE = "linux-image-amd64"

GUEST_MODULES = (
    "crc32c_generic",
    "ext4",
    "nls_ascii",
    "nls_cp437",
    "sd_mod",
    "vfat",
    "virtio_blk",
    "virtio_net",
    "virtio_pci",
    "virtio_scsi",
    "vmw_pvscsi",
)
"""The modules installed in the guest. The initramfs has a list of its own."""


@dataclass(frozen=True)
class HostKernel:
    """A kernel installed on this host: its files, and its modules' directory."""

    version: str
    image: Path
    config: Path
    modules: Path


def find_kernel(boot: Path = Path("/boot"), modules: Path = Path("/lib/modules")) -> HostKernel:
    """The newest kernel that has an image, a config and modules.

    Raises MissingToolError if there is none, GuestBuildError if its image may not be read.
    """
    found = [
        HostKernel(version, image, boot / f"config-{version}", modules / version)
        for image in boot.glob("vmlinuz-*")
        if (version := image.name.removeprefix("vmlinuz-"))
        and (modules / version / "modules.dep").is_file()
        and (boot / f"config-{version}").is_file()
    ]
    if not found:
        raise MissingToolError(f"a kernel in {boot} with its modules in {modules}", _PACKAGE)
    newest = max(found, key=lambda kernel: _version_key(kernel.version))
    try:
        newest.image.open("rb").close()
    except PermissionError as error:
        raise GuestBuildError(
            f"{newest.image} cannot be read; allow it with: sudo chmod a+r {newest.image}"
        ) from error
    return newest


def install_kernel(kernel: HostKernel, root: Path) -> None:
    """Copy the image, the config, GUEST_MODULES and the modules these need into ``root``.

    Compressed modules (``.ko.xz``) are unpacked, because busybox cannot load them. Raises
    GuestBuildError for a module that the host's kernel has neither as a file nor built in.
    """
    boot = root / "boot"
    boot.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(kernel.image, boot / f"vmlinuz-{kernel.version}")
    shutil.copyfile(kernel.config, boot / f"config-{kernel.version}")
    depends = _read_depends(kernel.modules / "modules.dep")
    built_in = {
        _module_name(line) for line in (kernel.modules / "modules.builtin").read_text().splitlines()
    }
    wanted: list[str] = []
    for name in GUEST_MODULES:
        if name in depends:
            path, needs = depends[name]
            wanted.extend([*needs, path])
        elif name not in built_in:
            raise GuestBuildError(f"kernel {kernel.version} has no module {name}")
    target = root / "lib/modules" / kernel.version
    for path in dict.fromkeys(wanted):
        _install_module(kernel.modules / path, target / _plain_name(path))
    lines = []
    for path in dict.fromkeys(wanted):
        _, needs = depends[_module_name(path)]
        lines.append(f"{_plain_name(path)}: {' '.join(map(_plain_name, needs))}".rstrip())
    (target / "modules.dep").write_text("\n".join(lines) + "\n")


def _read_depends(path: Path) -> dict[str, tuple[str, list[str]]]:
    depends = {}
    for line in path.read_text().splitlines():
        module, _, needs = line.partition(":")
        depends[_module_name(module)] = (module, needs.split())
    return depends


def _install_module(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".xz":
        target.write_bytes(lzma.decompress(source.read_bytes()))
    else:
        shutil.copyfile(source, target)


def _module_name(path: str) -> str:
    return Path(path).name.split(".")[0].replace("-", "_")


def _plain_name(path: str) -> str:
    return path.removesuffix(".xz")


def _version_key(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
