"""The host's programs that the builder runs, and their Debian packages."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.guest.errors import GuestBuildError, MissingToolError

PACKAGES: Mapping[str, str] = {
    "busybox": "busybox-static",
    "debugfs": "e2fsprogs",
    "grub-mkimage": "grub-common",
    "mcopy": "mtools",
    "mformat": "mtools",
    "mke2fs": "e2fsprogs",
    "mmd": "mtools",
    "qemu-system-x86_64": "qemu-system-x86",
    "sfdisk": "fdisk",
    "supermin": "supermin",
}
"""Debian package of each program."""

_SEARCH = os.pathsep.join(["/usr/sbin", "/sbin", "/usr/bin", "/bin"])
_COMMAND_TIMEOUT_SECONDS = 60.0


def find_tool(name: str) -> Path:
    """Absolute path of the program ``name``; also looked for in sbin, which PATH may lack.

    Raises MissingToolError naming the Debian package.
    """
    found = shutil.which(name) or shutil.which(name, path=_SEARCH)
    if found is None:
        raise MissingToolError(f"the program {name}", PACKAGES[name])
    return Path(found)


def run_tool(
    name: str,
    arguments: Sequence[str | Path],
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a host program and return its output; ``env`` adds to the environment.

    Raises MissingToolError, and GuestBuildError with the end of stderr if it fails.
    """
    command = [str(find_tool(name)), *map(str, arguments)]
    try:
        done = subprocess.run(
            command,
            input=stdin,
            env={**os.environ, **(env or {}), "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_SECONDS,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        detail = error.stderr.strip()[-500:] or f"exit status {error.returncode}"
        raise GuestBuildError(f"{name} failed: {detail}") from error
    except subprocess.TimeoutExpired as error:
        raise GuestBuildError(f"{name} did not end in {error.timeout:.0f} seconds") from error
    return done.stdout
