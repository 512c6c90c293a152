"""Ends processes that conversions of a killed agent left running."""

import os
import re
from pathlib import Path

import structlog

from services.disk_agent.conversions.reaper import end_processes
from services.kit.processes.control import find_processes

_log = structlog.stdlib.get_logger(__name__)


def sweep(folders: Path, proc: Path = Path("/proc")) -> int:
    """End every process that works on a conversion below ``folders``; returns how many. Blocks.

    They are recognised by an overlay of ours on their command line, or by VIRT_V2V_TMPDIR, which
    all processes below virt-v2v inherit. Process ids are not used: they may have been reused.
    """
    below = re.escape(os.fsencode(folders))
    on_overlay = re.compile(below + rb"/[^/\0]+/overlay-\d+\.qcow2")
    inherited = re.compile(rb"(^|\0)VIRT_V2V_TMPDIR=" + below + b"/")
    pids = find_processes(
        lambda process: bool(
            on_overlay.search((process / "cmdline").read_bytes())
            or inherited.search((process / "environ").read_bytes())
        ),
        proc,
    )
    if pids:
        _log.warning("ending left-over conversions", action="conversion.swept", count=len(pids))
        end_processes(pids)
    return len(pids)
