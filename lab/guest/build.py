"""Builds micro-guests, and keeps them in a cache."""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from lab.guest import grub, tree
from lab.guest.kernel import GUEST_MODULES, HostKernel, find_kernel
from lab.guest.layout import DISK_BYTES, Firmware, Layout, layout_for
from lab.guest.tools import find_tool, run_tool

_ROOT_UUID_NAMESPACE = uuid5(NAMESPACE_URL, "v2c:lab:micro-guest")
# Without metadata_csum, which newer versions of mke2fs switch on and GRUB 2.06 cannot read.
_EXT4_FEATURES = "none,has_journal,ext_attr,dir_index,filetype,extent,sparse_super,large_file"


@dataclass(frozen=True)
class Guest:
    """A micro-guest's disk.

    ``image`` is a sparse raw file of 256 MiB. ``scratch_area`` is (start, length) in bytes of the
    part outside all partitions, to which the lab's writer may write while the guest "runs".
    """

    image: Path
    scratch_area: tuple[int, int]
    firmware: Firmware


def cache_directory() -> Path:
    """The cache of builds: the folder ``lab`` in ``$V2C_CACHE_DIR`` or ``~/.cache/v2c``."""
    base = os.environ.get("V2C_CACHE_DIR") or os.path.expanduser("~/.cache/v2c")
    return Path(base) / "lab"


def build_micro_guest(
    dest: Path, firmware: Firmware = "bios", *, cache: Path | None = None
) -> Guest:
    """Write a micro-guest's disk to the file ``dest``, in about 2 s, or 50 ms from the cache.

    The cache's key is a digest of all inputs. ``dest`` is created whole or not at all. Raises
    MissingToolError for a missing program or package, GuestBuildError when a tool fails.
    """
    kernel = find_kernel()
    layout = layout_for(firmware)
    kept = (cache or cache_directory()) / f"guest-{firmware}-{_digest(kernel, firmware)}.raw"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=kept.parent) as scratch:
            built = _build(Path(scratch), kernel, layout, firmware)
            # Two processes may build at once: their results are equal, and the last one is kept.
            built.rename(kept)
        for old in kept.parent.glob(f"guest-{firmware}-*.raw"):
            if old != kept:
                old.unlink(missing_ok=True)
    dest.parent.mkdir(parents=True, exist_ok=True)
    partial = dest.with_name(f".{dest.name}.{os.getpid()}")
    try:
        _copy_sparse(kept, partial)
        partial.rename(dest)
    finally:
        partial.unlink(missing_ok=True)
    return Guest(image=dest, scratch_area=layout.scratch_area, firmware=firmware)


def _build(scratch: Path, kernel: HostKernel, layout: Layout, firmware: Firmware) -> Path:
    root = scratch / "root"
    root.mkdir()
    root_uuid = uuid5(_ROOT_UUID_NAMESPACE, firmware)
    tree.populate(root, kernel, layout, root_uuid)
    grub.install_modules(root, firmware)
    config = tree.grub_config_path(firmware)
    tree.write_grub_config(root, config)
    disk = scratch / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    run_tool(
        "sfdisk", ["--quiet", "--no-reread", "--no-tell-kernel", disk], stdin=layout.sfdisk_script
    )
    if firmware == "bios":
        grub.install_bios(disk, layout, scratch)
    else:
        esp_config = scratch / "grub.cfg"
        # In the guest this file is on the ESP, which is mounted there.
        shutil.move(root / config.lstrip("/"), esp_config)
        shutil.rmtree(root / "boot/efi/EFI")
        grub.write_esp(disk, layout, esp_config, scratch)
    _make_root_file_system(disk, layout, root, str(root_uuid))
    return disk


def _make_root_file_system(disk: Path, layout: Layout, root: Path, uuid: str) -> None:
    start, size = layout.root.start_bytes, layout.root.size_bytes
    options = f"offset={start},nodiscard,lazy_itable_init=1,root_owner=0:0"
    run_tool(
        "mke2fs",
        [
            *("-q", "-F", "-t", "ext4", "-O", _EXT4_FEATURES, "-b", "4096", "-I", "256"),
            *("-m", "0", "-N", "2048", "-J", "size=4", "-L", "micro-root", "-U", uuid),
            *("-E", options, "-d", root, disk, f"{size // 1024}k"),
        ],
    )


def _digest(kernel: HostKernel, firmware: Firmware) -> str:
    digest = hashlib.sha256(f"{firmware} {kernel.version} {GUEST_MODULES}".encode())
    for path in (kernel.image, kernel.config, find_tool("busybox"), find_tool("grub-mkimage")):
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
    package = Path(__file__).parent
    code = [package / f"{module}.py" for module in ("build", "grub", "kernel", "layout", "tree")]
    for path in [*code, *sorted(package.glob("rootfs/**/*"))]:
        if path.is_file():
            digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _copy_sparse(source: Path, target: Path) -> None:
    size = source.stat().st_size
    with source.open("rb") as reader, target.open("wb") as writer:
        writer.truncate(size)
        offset = 0
        while offset < size:
            try:
                start = os.lseek(reader.fileno(), offset, os.SEEK_DATA)
            except OSError:
                # ENXIO: the rest of the file is a hole.
                break
            offset = os.lseek(reader.fileno(), start, os.SEEK_HOLE)
            while start < offset:
                start += os.copy_file_range(
                    reader.fileno(), writer.fileno(), offset - start, start, start
                )
