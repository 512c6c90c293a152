"""Repairs the tables of an image whose writer was killed or whose storage failed meanwhile."""

import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from services.disk_agent.host.qemu_lock import reports_lock
from services.disk_agent.transfer_failures import TargetCorrupt, TargetUnchecked
from services.kit.processes.control import die_with_parent

# qemu-img(1), check: 0 is a consistent image, 1 a check that could not be done.
_CORRUPT = 2
_LEAKS = 3
_ERROR = "ERROR"
# A cluster that is referenced once but counted as free, and flags that disagree with the count.
_MISCOUNTED = re.compile(rf"{_ERROR} (cluster \d+ refcount=0 reference=1$|OFLAG_COPIED )")
_SHOWN_CHARACTERS = 300


# A check reads all of an image's tables: minutes where it is large and its storage slow.
_STEP_SECONDS = 0.1

Wait = Callable[[float], None]
"""Waits for a number of seconds; raises when the repair shall stop."""


def repair(image: Path, wait: Wait = time.sleep) -> None:
    """Repair the tables of a QCOW2 image so that it can be written again; its content stays.

    - Leaked clusters, allocated and not used, are freed. A killed qemu-nbd leaves no other damage,
      but leaked clusters would take space for ever.
    - The counts of clusters that are in use but counted as free are corrected. QEMU leaves such
      counts when a flush fails between two writes whose order matters: the next write would put
      two chunks into one cluster.

    Raises TargetCorrupt when the image is damaged in any other way, TargetUnchecked when it cannot
    be checked, and what `wait` raises. The image is then unchanged or partly repaired; another
    call continues.
    """
    forget_cached(image)
    found = _check(image, wait)
    if found.returncode == _LEAKS:
        found = _check(image, wait, "-r", "leaks")
    elif found.returncode == _CORRUPT and _only_miscounted(found.stderr):
        found = _check(image, wait, "-r", "all")
    message = found.stderr.strip()[-_SHOWN_CHARACTERS:]
    if found.returncode == _CORRUPT:
        raise TargetCorrupt(f"the image {image} is damaged: {message}")
    # An image that is open elsewhere is reported by the qemu-nbd that is started next.
    if found.returncode not in (0, _LEAKS) and not reports_lock(message):
        raise TargetUnchecked(f"the image {image} cannot be checked: {message}")


def forget_cached(image: Path) -> None:
    """Have the kernel read the image from its storage again.

    Pages that could not be written stay in the page cache as if they had been (fsync(2)): a reader
    would see data that the storage does not have.
    """
    # An image that cannot be opened is reported by the check.
    with contextlib.suppress(OSError), image.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _check(image: Path, wait: Wait, *repair: str) -> subprocess.CompletedProcess[str]:
    command = ["qemu-img", "check", "-q", "-f", "qcow2", *repair, "--", str(image)]
    # A file, because a pipe is not read until the check has ended, and would block it when full.
    with tempfile.TemporaryFile(mode="w+", errors="replace") as stderr:
        parent = os.getpid()
        # It ends with this process: it must not write when another process has the image open.
        checking = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            preexec_fn=lambda: die_with_parent(parent),
        )
        try:
            while checking.poll() is None:
                wait(_STEP_SECONDS)
        except BaseException:
            checking.kill()
            checking.wait()
            raise
        stderr.seek(0)
        return subprocess.CompletedProcess(command, checking.returncode, "", stderr.read())


def _only_miscounted(report: str) -> bool:
    errors = [line for line in report.splitlines() if line.startswith(_ERROR)]
    return bool(errors) and all(_MISCOUNTED.match(line) for line in errors)
