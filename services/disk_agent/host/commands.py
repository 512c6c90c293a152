"""Runs short commands of the host, and makes errors of those that fail."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.disk_agent.host.errors import ToolFailed, ToolMissing, ToolTimeout

_PACKAGES = {
    "mount": "mount",
    "qemu-img": "qemu-utils (Debian, Ubuntu) or qemu-img (EL)",
    "umount": "mount",
    "virt-v2v-in-place": "virt-v2v",
}
_DETAIL_LIMIT = 500


@dataclass(frozen=True)
class Completed:
    """The result of a command: its exit status and its output as text."""

    status: int
    stdout: str = ""
    stderr: str = ""


class Commands(Protocol):
    """Runs commands; blocks."""

    def run(self, command: Sequence[str], *, timeout_seconds: float) -> Completed:
        """Run a command to its end. Raises ToolMissing or ToolTimeout."""
        ...


class HostCommands:
    """Commands as child processes of the agent, in the C locale so that texts can be matched."""

    def run(self, command: Sequence[str], *, timeout_seconds: float) -> Completed:
        """Run a command to its end; it is killed at the timeout."""
        tool = command[0]
        try:
            done = subprocess.run(
                list(command),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={**os.environ, "LC_ALL": "C"},
                text=True,
                errors="replace",
                timeout=timeout_seconds,
                check=False,
            )
        except FileNotFoundError as error:
            raise tool_missing(tool) from error
        except subprocess.TimeoutExpired as error:
            raise ToolTimeout(
                message=f"{tool} did not end in {timeout_seconds:.0f} seconds",
                metadata={"tool": tool},
            ) from error
        return Completed(done.returncode, done.stdout, done.stderr)


def tool_missing(tool: str) -> ToolMissing:
    """The error for a program that is not installed, with the package that has it."""
    package = _PACKAGES.get(tool, tool)
    return ToolMissing(
        message=f"{tool} is not installed on this host",
        metadata={"tool": tool},
        hint=f"install the package {package}",
    )


def tool_failed(tool: str, done: Completed) -> ToolFailed:
    """The error for an unexpected exit status, with the end of the program's output."""
    detail = (done.stderr.strip() or done.stdout.strip())[-_DETAIL_LIMIT:]
    return ToolFailed(
        message=f"{tool} failed with status {done.status}: {detail}",
        metadata={"tool": tool, "detail": detail},
    )
