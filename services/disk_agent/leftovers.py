"""Ends what conversions of a killed agent left running."""

import os
from pathlib import Path

import structlog

from services.disk_agent.warden import end_processes

_log = structlog.stdlib.get_logger(__name__)


def sweep(folders: Path, proc: Path = Path("/proc")) -> int:
    """End every process that works on a conversion below ``folders``; returns how many. Blocks.

    They are known by a path of ours on their command line or in VIRT_V2V_TMPDIR, which all
    processes of a conversion inherit, so that no other process can be taken for one, whatever
    became of the process ids.
    """
    marks = (os.fsencode(folders) + b"/", b"VIRT_V2V_TMPDIR=" + os.fsencode(folders) + b"/")
    pids = set()
    for entry in proc.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            found = marks[0] in (entry / "cmdline").read_bytes() or any(
                variable.startswith(marks[1])
                for variable in (entry / "environ").read_bytes().split(b"\0")
            )
        except OSError:
            # It ended meanwhile, or belongs to somebody else.
            continue
        if found:
            pids.add(int(entry.name))
    if pids:
        _log.warning("ending left-over conversions", action="conversion.swept", count=len(pids))
        end_processes(pids)
    return len(pids)
