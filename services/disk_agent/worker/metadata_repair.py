"""Mends an image whose writer was killed, or whose storage failed while it was written."""

import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from services.disk_agent.failures import TargetUnusable
from services.disk_agent.host.qemu_lock import reports_lock
from services.kit.processes.control import die_with_parent

# qemu-img(1), check: 0 is a consistent image, 1 a check that could not be done.
_CORRUPT = 2
_LEAKS = 3
_ERROR = "ERROR"
# A cluster in use by one place that is counted as free, and the flags that follow from the count.
_MISCOUNTED = re.compile(rf"{_ERROR} (cluster \d+ refcount=0 reference=1$|OFLAG_COPIED )")
_SAID_CHARACTERS = 300


# A check reads all of an image's tables: minutes where it is large and its storage slow.
_STEP_SECONDS = 0.1

Wait = Callable[[float], None]
"""Waits for so many seconds; raises when the work is not wanted any more."""


def mend(image: Path, wait: Wait = time.sleep) -> None:
    """Make a QCOW2 image fit to be written again. Content that was flushed to it stays.

    - Clusters that were allocated and not yet used are given back. Such leaks are all that a killed
      qemu-nbd leaves, but they take space for ever.
    - Clusters in use that are counted as free are counted anew. QEMU leaves those when a flush
      between two writes failed that must not change places: the next write would put two chunks
      into one cluster.

    Raises TargetUnusable when the image is damaged in any other way, or cannot be checked, and
    what `wait` raises: the image is left as it was or half mended, for the next call.
    """
    forget_cached(image)
    found = _check(image, wait)
    if found.returncode == _LEAKS:
        found = _check(image, wait, "-r", "leaks")
    elif found.returncode == _CORRUPT and _only_miscounted(found.stderr):
        found = _check(image, wait, "-r", "all")
    said = found.stderr.strip()[-_SAID_CHARACTERS:]
    if found.returncode == _CORRUPT:
        raise TargetUnusable(
            f"the image {image} is damaged: {said}",
            reason="TARGET_CORRUPT",
            hint="cancel the migration and start it anew, which makes a new image",
        )
    # Whoever has the image open is told by the qemu-nbd that is started next.
    if found.returncode not in (0, _LEAKS) and not reports_lock(said):
        raise TargetUnusable(
            f"the image {image} cannot be checked: {said}",
            reason="TARGET_UNCHECKED",
            retryable=True,
            hint="check that the storage below the image is mounted, writable and free of errors",
        )


def forget_cached(image: Path) -> None:
    """Have the kernel read the image from its storage again.

    Pages that could not be written stay in the page cache as if they had been (fsync(2)): whoever
    reads them takes for written what the storage never got.
    """
    # An image that cannot be opened is told by the check.
    with contextlib.suppress(OSError), image.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _check(image: Path, wait: Wait, *repair: str) -> subprocess.CompletedProcess[str]:
    command = ["qemu-img", "check", "-q", "-f", "qcow2", *repair, "--", str(image)]
    # A file holds any number of errors; a pipe that nobody reads would stop the check.
    with tempfile.TemporaryFile(mode="w+", errors="replace") as said:
        parent = os.getpid()
        # Left alone, it would write into an image that somebody else has by then.
        checking = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=said,
            preexec_fn=lambda: die_with_parent(parent),
        )
        try:
            while checking.poll() is None:
                wait(_STEP_SECONDS)
        except BaseException:
            checking.kill()
            checking.wait()
            raise
        said.seek(0)
        return subprocess.CompletedProcess(command, checking.returncode, "", said.read())


def _only_miscounted(said: str) -> bool:
    errors = [line for line in said.splitlines() if line.startswith(_ERROR)]
    return bool(errors) and all(_MISCOUNTED.match(line) for line in errors)
