"""A command's temporary folder, which the next command removes if this one cannot."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["scratch_folder"]

_PREFIX = "v2c-cli-"
# Held by the command whose folder it is in; the kernel releases it whatever ends the command.
_LOCK = "cli.lock"
# A folder gets its lock in no time: one that has none for so long lost its command before that.
_UNLOCKED_SECONDS = 3600.0


@contextmanager
def scratch_folder(kill_below: Callable[[Path], object]) -> Iterator[Path]:
    """A folder below $TMPDIR for as long as the block runs.

    What commands left that were killed goes first, and `kill_below` ends what still uses it.
    """
    _sweep(Path(tempfile.gettempdir()), kill_below)
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder:
        fresh = Path(folder) / f"{_LOCK}.new"
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            # Under its own name it is locked already, so that nobody takes the folder for left.
            fresh.rename(fresh.with_name(_LOCK))
            yield Path(folder)
        finally:
            os.close(fd)


def _sweep(parent: Path, kill_below: Callable[[Path], object]) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            found = folder.lstat()
        except FileNotFoundError:
            continue
        if found.st_uid != os.geteuid():
            continue
        try:
            fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            if time.time() - found.st_mtime > _UNLOCKED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
            continue
        except OSError:
            continue  # No folder, or no lock of ours.
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # Its command runs.
        else:
            kill_below(folder)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(fd)
