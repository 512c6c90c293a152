"""Compiles the lab's libvixDiskLib and writes its configuration."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from lab.guest.build import cache_directory

_SOURCES = Path(__file__).with_name("src")
_NAME = "libvixDiskLib.so"
_VERSION = "8"


class VddkBuildError(Exception):
    """The compiler failed; the message holds its output."""


@dataclass(frozen=True)
class LabVddkConf:
    """Whose logins the library accepts, and where the disks are.

    ``servers`` are all names and addresses of the vCenter that count as right; ``thumbprints``
    its certificate's fingerprints (SHA-1, and SHA-256 for VDDK 8), any case, colons or not.
    """

    nbd_socket: Path
    control_socket: Path
    servers: tuple[str, ...]
    port: int
    user: str
    password: str = field(repr=False)
    thumbprints: tuple[str, ...]


def build(dest: Path, conf: LabVddkConf) -> Path:
    """Make ``dest`` look like an unpacked VDDK distribution and return it.

    Creates ``lib64/libvixDiskLib.so.8`` (newer than its sources: kept), the usual symlink, and
    ``lib64/lab.conf`` readable by the owner only. Raises VddkBuildError.
    """
    lib64 = dest / "lib64"
    lib64.mkdir(parents=True, exist_ok=True)
    library = lib64 / f"{_NAME}.{_VERSION}"
    if not _is_current(library):
        _compile(library)
    link = lib64 / _NAME
    if not link.is_symlink():
        link.symlink_to(library.name)
    write_conf(lib64 / "lab.conf", conf)
    return dest


def write_conf(path: Path, conf: LabVddkConf) -> None:
    """Replace the configuration; a library loaded later reads the new one."""
    pairs: list[tuple[str, object]] = [
        ("nbd_socket", conf.nbd_socket.absolute()),
        ("control_socket", conf.control_socket.absolute()),
        ("port", conf.port),
        ("user", conf.user),
        ("password", conf.password),
        *(("server", server) for server in conf.servers),
        *(("thumbprint", thumbprint) for thumbprint in conf.thumbprints),
    ]
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as stream:
        stream.writelines(f"{key}={value}\n" for key, value in pairs)
    temporary.replace(path)


def _is_current(library: Path) -> bool:
    if not library.exists():
        return False
    built = library.stat().st_mtime
    return all(source.stat().st_mtime < built for source in _SOURCES.iterdir())


def _compile(library: Path) -> None:
    """Compile once per host: the cache's key is a digest of all inputs but the compiler."""
    command = [
        "gcc",
        *("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"),
        *("-fPIC", "-fvisibility=hidden", "-shared", f"-Wl,-soname,{library.name}"),
    ]
    inputs = hashlib.sha256(" ".join([platform.machine(), *command]).encode())
    for source in sorted(_SOURCES.iterdir()):
        inputs.update(source.name.encode() + source.read_bytes())
    kept = cache_directory() / f"vddk-{inputs.hexdigest()[:16]}.so"
    # Under another name first, so that a process cannot load half a library.
    temporary = library.with_suffix(".new")
    if kept.exists():
        shutil.copyfile(kept, temporary)
    else:
        sources = sorted(str(source) for source in _SOURCES.glob("*.c"))
        libraries = ("-lnbd", "-lpthread", "-ldl")
        command += ["-o", str(temporary), *sources, *libraries]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise VddkBuildError(done.stderr.strip())
        kept.parent.mkdir(parents=True, exist_ok=True)
        own = kept.with_suffix(f".{os.getpid()}")
        shutil.copyfile(temporary, own)
        own.replace(kept)
    temporary.replace(library)
