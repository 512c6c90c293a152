"""The entry point of the v2c command."""

import sys
from collections.abc import Sequence

__all__ = ["main"]

# What a shell reports for a program that SIGINT ended.
_EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status.

    0: done. 1: it failed, or not every VM is done. 2: a mistake in arguments, config or spec.
    130: interrupted. Errors are one paragraph on standard error, without a traceback; an exception
    that nobody foresaw is a defect and raises.
    """
    try:
        # Here, since it takes half a second in which Ctrl-C may come already.
        from cli.app import run_command

        return run_command(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
