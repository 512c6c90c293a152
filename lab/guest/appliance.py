"""A libguestfs appliance that starts faster on hosts without KVM.

libguestfs boots a helper machine for each conversion. Without KVM the boot takes about 14 s, a
quarter of it for unpacking the kernel, and Augeas reads its 231 lenses twice, which takes 3 s each
time. The appliance built here has an unpacked kernel and only the lenses that virt-v2v uses, so a
micro-guest is converted in 28 s instead of 35 s. Otherwise it is the same as that of
libguestfs-make-fixed-appliance. It is used by setting LIBGUESTFS_PATH to its directory.
"""

import hashlib
import lzma
import re
import shutil
import tempfile
import zlib
from pathlib import Path

from lab.guest.build import cache_directory
from lab.guest.errors import MissingToolError
from lab.guest.kernel import find_kernel
from lab.guest.tools import run_tool

_SUPERMIN_DIRECTORIES = (
    Path("/usr/lib/x86_64-linux-gnu/guestfs/supermin.d"),
    Path("/usr/lib64/guestfs/supermin.d"),
)
_LENSES = "/usr/share/augeas/lenses/dist"
# The lenses that virt-v2v and libguestfs' inspection use, and those that they import.
_KEPT_LENSES = (
    *("build", "device_map", "fstab", "grub", "group", "hostname", "hosts", "inifile", "inittab"),
    *("interfaces", "lvm", "mdadm_conf", "mke2fs", "modprobe", "modules", "modules_conf"),
    *("passwd", "quote", "rx", "securetty", "sep", "shellvars", "shellvars_list", "simplelines"),
    *("simplevars", "spacevars", "sysconfig", "util", "yum"),
)
_XZ_MAGIC = b"\xfd7zXZ\x00"
_GZIP_MAGIC = b"\x1f\x8b\x08"
_ELF_MAGIC = b"\x7fELF"


def build_appliance(cache: Path | None = None) -> Path:
    """Build the appliance (15 s, 0.7 GB), unless it is cached; returns LIBGUESTFS_PATH's value.

    Raises MissingToolError without supermin or libguestfs, GuestBuildError when a tool fails.
    """
    supermin_d = next((path for path in _SUPERMIN_DIRECTORIES if path.is_dir()), None)
    if supermin_d is None:
        raise MissingToolError("libguestfs' supermin.d", "libguestfs-tools")
    kernel = find_kernel()
    key = f"{kernel.version} {supermin_d} {_KEPT_LENSES}"
    for path in sorted(supermin_d.iterdir()):
        status = path.stat()
        key += f" {path.name} {status.st_size} {status.st_mtime_ns}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    parent = cache or cache_directory()
    kept = parent / f"appliance-{digest}"
    if kept.is_dir():
        return kept
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=parent) as scratch:
        built = Path(scratch) / "appliance"
        run_tool(
            "supermin",
            ["--build", "-f", "ext2", "--host-cpu", "x86_64", supermin_d, "-o", built],
        )
        _remove_lenses(built / "root", Path(scratch) / "commands")
        _unpack_kernel(built / "kernel")
        (built / "README.fixed").write_text("Built by the lab; see lab/guest/appliance.py.\n")
        if not kept.is_dir():
            built.rename(kept)
    for old in parent.glob("appliance-*"):
        if old != kept:
            shutil.rmtree(old)
    return kept


def _remove_lenses(root: Path, script: Path) -> None:
    listing = run_tool("debugfs", ["-R", f"ls -p {_LENSES}", root])
    lenses = re.findall(r"/([a-z0-9_-]+)\.aug/", listing)
    unused = [name for name in lenses if name not in _KEPT_LENSES]
    script.write_text("".join(f"rm {_LENSES}/{name}.aug\n" for name in unused))
    run_tool("debugfs", ["-w", "-f", script, root])


def _unpack_kernel(kernel: Path) -> None:
    """Replace a bzImage by the ELF kernel in it, which qemu starts directly (PVH).

    A kernel packed in another way is not replaced: the appliance works, but starts slower.
    """
    packed = kernel.read_bytes()
    kernel.unlink()
    kernel.write_bytes(_elf_kernel(packed) or packed)


def _elf_kernel(packed: bytes) -> bytes | None:
    for magic in (_XZ_MAGIC, _GZIP_MAGIC):
        start = packed.find(magic)
        while start >= 0:
            content = _unpack(magic, packed[start:])
            if content.startswith(_ELF_MAGIC):
                return content
            start = packed.find(magic, start + 1)
    return None


def _unpack(magic: bytes, body: bytes) -> bytes:
    """The content of the compressed stream at the start of `body`, empty if there is none."""
    try:
        if magic == _XZ_MAGIC:
            return lzma.LZMADecompressor().decompress(body)
        return zlib.decompressobj(wbits=31).decompress(body)
    except (lzma.LZMAError, zlib.error):
        return b""
