"""One stack per control_dir: two would fight over sockets, state and snapshots."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from cli.errors import CommandError

__all__ = ["stack_lock"]


@contextlib.contextmanager
def stack_lock(control_dir: Path) -> Iterator[None]:
    """Hold ``control_dir/run/stack.lock`` while the block runs; it holds this process' id.

    The kernel releases it when the process ends, however it ends. Raises CommandError when
    another process holds it, naming its id, and when the folder cannot be written.
    """
    run = control_dir / "run"
    try:
        # Its files name internal systems: for this user only.
        control_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Sockets and ready files of this user's services are for this user only.
        run.mkdir(mode=0o700, exist_ok=True)
        (control_dir / "logs").mkdir(exist_ok=True)
        file = os.open(run / "stack.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise CommandError(
            f"migration.control_dir: {control_dir} cannot be written: {reason}",
            "Run as a user who may write there, or give another folder in the config.",
        ) from exc
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = os.pread(file, 32, 0).decode(errors="replace").strip() or "unknown"
            raise CommandError(
                f"v2c already runs with {control_dir} (process {holder})",
                "Use it: v2c status and the other commands find it. Or stop it first.",
            ) from exc
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(file)
